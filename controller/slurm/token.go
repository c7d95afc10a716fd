package slurm

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"pipefill"
)

const maxToken = 16 << 10

// readToken reads a JWT and the user it speaks for. The token is that of a
// cluster administrator: a file that others can read or swap is refused.
func readToken(path string) (user, token string, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0) //nolint:gosec // the path is the site's own setting
	if err != nil {
		return "", "", pipefill.Errorf(pipefill.CodeUnavailable, "token of slurmrestd: %w; write one there: scontrol token lifespan=3600", err)
	}
	defer func() { _ = file.Close() }() // read only
	info, err := file.Stat()
	if err != nil {
		return "", "", fmt.Errorf("token of slurmrestd: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return "", "", pipefill.Errorf(pipefill.CodeDenied, "token of slurmrestd: %s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return "", "", pipefill.Errorf(pipefill.CodeDenied, "token of slurmrestd: %s has mode %04o; make it 0600, others could act as Slurm's administrator", path, info.Mode().Perm())
	case ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return "", "", pipefill.Errorf(pipefill.CodeDenied, "token of slurmrestd: %s belongs to user %d; it must be root's or ours", path, stat.Uid)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxToken))
	if err != nil {
		return "", "", fmt.Errorf("token of slurmrestd: %w", err)
	}
	token = strings.TrimPrefix(strings.TrimSpace(string(text)), "SLURM_JWT=")
	user = tokenUser(token)
	if user == "" {
		return "", "", pipefill.Errorf(pipefill.CodeInvalid, "token of slurmrestd: %s holds no JWT of Slurm's; write one: scontrol token lifespan=3600", path)
	}
	return user, token, nil
}

// TokenExpiry tells until when the token in a file is good; zero: for ever. It
// refuses what the client would.
func TokenExpiry(path string) (time.Time, error) {
	_, token, err := readToken(path)
	if err != nil {
		return time.Time{}, err
	}
	if c := tokenClaims(token); c.Expires != 0 {
		return time.Unix(c.Expires, 0), nil
	}
	return time.Time{}, nil
}

// claims are what a token says, not whether it is true: slurmctld checks the
// signature, and refuses a user name that is not the claim's.
type claims struct {
	User    string `json:"sun"`
	Name    string `json:"username"`
	Expires int64  `json:"exp"`
}

// tokenClaims is empty of what is no token.
func tokenClaims(token string) claims {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || strings.ContainsAny(token, " \t\r\n") {
		return claims{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return claims{}
	}
	var c claims
	if json.Unmarshal(payload, &c) != nil {
		return claims{}
	}
	return c
}

// tokenUser is who the token is for.
func tokenUser(token string) string {
	c := tokenClaims(token)
	if c.User == "" {
		return c.Name
	}
	return c.User
}
