package executor

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"pipefill"
)

// The datagrams of docs/protocol.md section 2.
const (
	messageMax   = 4096
	messageLines = 64
	messageMagic = "pipefill 1 "
)

// message is one request: a verb and its keys.
type message struct {
	verb string
	keys map[string]string
}

// parseMessage reads a datagram. Unknown keys are kept, to be ignored.
func parseMessage(data []byte) (message, error) {
	refuse := func(why string) (message, error) {
		return message{}, pipefill.Errorf(pipefill.CodeInvalid, "not a request of pipefill: %s", why)
	}
	if len(data) > messageMax {
		return refuse("longer than 4096 bytes")
	}
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return refuse("not text")
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(lines) > messageLines {
		return refuse("too many lines")
	}
	verb, ok := strings.CutPrefix(lines[0], messageMagic)
	if !ok || verb == "" {
		return refuse("the first line is not \"pipefill 1 VERB\"")
	}
	m := message{verb: verb, keys: make(map[string]string, len(lines))}
	for _, line := range lines[1:] {
		key, value, ok := strings.Cut(line, "=")
		if !ok || key == "" {
			return refuse("a line is not key=value")
		}
		if _, twice := m.keys[key]; twice {
			return refuse("a key stands twice")
		}
		m.keys[key] = value
	}
	return m, nil
}

// number reads a decimal key between 0 and limit.
func (m message) number(key string, limit int64) (int64, error) {
	v, err := strconv.ParseInt(m.keys[key], 10, 64)
	if err != nil || v < 0 || v > limit {
		return 0, pipefill.Errorf(pipefill.CodeInvalid, "%s: %s=%q: not a number from 0 to %d", m.verb, key, m.keys[key], limit)
	}
	return v, nil
}

// reply is an answer; its first word is ok, wait, none, other or error.
type reply struct {
	word string
	keys []string // key, value, ...
}

func ok(keys ...string) reply { return reply{"ok", keys} }

var (
	replyNone  = reply{word: "none"}
	replyWait  = reply{word: "wait"}
	replyOther = reply{word: "other"}
)

func failed(err error) reply { return reply{"error", []string{"message", err.Error()}} }

// encode writes a reply; a newline in a value becomes a blank.
func (r reply) encode() []byte {
	var b bytes.Buffer
	b.WriteString(r.word + "\n")
	for i := 0; i+1 < len(r.keys); i += 2 {
		value := strings.Map(func(c rune) rune {
			if c == '\n' || c == 0 {
				return ' '
			}
			return c
		}, r.keys[i+1])
		fmt.Fprintf(&b, "%s=%s\n", r.keys[i], value)
	}
	if b.Len() > messageMax {
		return failed(pipefill.Errorf(pipefill.CodeInternal, "the answer does not fit a datagram")).encode()
	}
	return b.Bytes()
}
