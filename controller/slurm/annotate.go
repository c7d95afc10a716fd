package slurm

import (
	"context"
	"strings"

	"pipefill"
)

// Field is a comment of a job, which sacct and squeue show.
type Field string

// The fields: the user's own, and the administrator's, which only operators write.
const (
	FieldComment      Field = "comment"
	FieldAdminComment Field = "admin_comment"
)

const ranPrefix = notePrefix + "ran="

// Annotate writes where and how a job ran into one of its comments, as the word
// pipefill:ran=RAN. A comment that its user wrote is left alone, and so are the
// words of others in the administrator's. Of a job that has ended Slurm changes
// the comment in its accounting alone: without slurmdbd that is unavailable.
func (c *Client) Annotate(ctx context.Context, id int64, field Field, ran string) error {
	j, err := c.Job(ctx, id)
	if err != nil {
		return err
	}
	var text string
	switch field {
	case FieldComment:
		text = ranPrefix + escapeNote(ran)
		if j.Comment != "" && !strings.HasPrefix(j.Comment, ranPrefix) || j.Comment == text {
			return nil
		}
	case FieldAdminComment:
		n := parseNote(j.AdminComment)
		if n.ran == ran {
			return nil
		}
		n.ran = ran
		text = n.String()
	default:
		return pipefill.Errorf(pipefill.CodeInvalid, "job %d: %q is no comment", id, field)
	}
	err = c.scontrol.run(ctx, "update", "JobId="+j.name(), map[Field]string{FieldComment: "Comment=", FieldAdminComment: "AdminComment="}[field]+text)
	if pipefill.ErrorCode(err) != pipefill.CodeConflict {
		return err
	}
	return c.sacctmgr.run(ctx, "--immediate", "--quiet", "modify", "job", "where", "jobid="+j.name(), "set", strings.ReplaceAll(string(field), "_", "")+"="+text)
}
