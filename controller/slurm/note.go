package slurm

import (
	"net/url"
	"strings"
)

// note is what we keep in a job's administrator comment, the one field of a job
// that only operators write and that survives our database: job_submit.lua
// (packaging/etc) writes gpus, opts and norequeue, PinRelease pin and req, and
// Annotate ran.
//
// It is one word, "pipefill:gpus=gres:gpu:2;norequeue;pin=n0;req=n[0-1]"; other
// words of the comment are the site's and are kept.
type note struct {
	gpus      string
	options   string // of the job's --pipefill, which slurmrestd does not show
	noRequeue bool
	pin       string // the node PinRelease chose
	required  string // the user's own node list, while pin replaces it
	ran       string // where and how it ran, for those who read sacct
	others    []string
}

const notePrefix = "pipefill:"

func parseNote(comment string) note {
	var n note
	for word := range strings.FieldsSeq(comment) {
		body, ok := strings.CutPrefix(word, notePrefix)
		if !ok {
			n.others = append(n.others, word)
			continue
		}
		for item := range strings.SplitSeq(body, ";") {
			key, text, _ := strings.Cut(item, "=")
			value, err := url.PathUnescape(text)
			if err != nil {
				continue
			}
			switch key {
			case "gpus":
				n.gpus = value
			case "opts":
				n.options = value
			case "norequeue":
				n.noRequeue = true
			case "pin":
				n.pin = value
			case "req":
				n.required = value
			case "ran":
				n.ran = value
			}
		}
	}
	return n
}

// String is the comment to write: the site's words, then ours if there are any.
func (n note) String() string {
	var items []string
	if n.gpus != "" {
		items = append(items, "gpus="+escapeNote(n.gpus))
	}
	if n.options != "" {
		items = append(items, "opts="+escapeNote(n.options))
	}
	if n.noRequeue {
		items = append(items, "norequeue")
	}
	if n.pin != "" {
		items = append(items, "pin="+escapeNote(n.pin))
	}
	if n.required != "" {
		items = append(items, "req="+escapeNote(n.required))
	}
	if n.ran != "" {
		items = append(items, "ran="+escapeNote(n.ran))
	}
	out := append([]string{}, n.others...)
	if len(items) > 0 {
		out = append(out, notePrefix+strings.Join(items, ";"))
	}
	return strings.Join(out, " ")
}

// escapeNote keeps the value one word without our separators; brackets and
// commas of node lists stay readable.
func escapeNote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(":,._-/[]()*", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		const hex = "0123456789ABCDEF"
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
