// Package hostlist reads the lists of nodes that Slurm writes, as n[0-2,07].
package hostlist

import (
	"fmt"
	"strconv"
	"strings"

	"pipefill"
)

// maxHosts bounds what a list may expand to; Slurm's own clusters end below it.
const maxHosts = 65536

// Expand turns Slurm's "n[0-2,07],gpu1" into names. One bracket a name,
// which is what Slurm writes unless nodes are named in several dimensions.
func Expand(list string) ([]string, error) {
	var hosts []string
	for list != "" {
		part := list
		depth := 0
		for i := 0; i < len(list); i++ {
			switch list[i] {
			case '[':
				depth++
			case ']':
				depth--
			case ',':
				if depth == 0 {
					part = list[:i]
				}
			}
			if len(part) != len(list) {
				break
			}
		}
		list = strings.TrimPrefix(list[len(part):], ",")
		names, err := expandHost(part, maxHosts-len(hosts))
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, names...)
	}
	return hosts, nil
}

func expandHost(part string, room int) ([]string, error) {
	bad := func() error {
		return pipefill.Errorf(pipefill.CodeInvalid, "node list %.80q: write it like n[0-3,7],gpu1", part)
	}
	open := strings.IndexByte(part, '[')
	if open < 0 {
		if part == "" || strings.IndexByte(part, ']') >= 0 || room < 1 {
			return nil, bad()
		}
		return []string{part}, nil
	}
	shut := strings.IndexByte(part, ']')
	if shut < open || strings.ContainsAny(part[shut+1:], "[]") || strings.IndexByte(part[open+1:shut], '[') >= 0 {
		return nil, bad()
	}
	prefix, suffix := part[:open], part[shut+1:]
	var names []string
	for item := range strings.SplitSeq(part[open+1:shut], ",") {
		lo, hi, ranged := strings.Cut(item, "-")
		if !ranged {
			hi = lo
		}
		a, err1 := strconv.ParseUint(lo, 10, 32)
		b, err2 := strconv.ParseUint(hi, 10, 32)
		if err1 != nil || err2 != nil || b < a || b-a > maxHosts || int(b-a) >= room-len(names) {
			return nil, bad()
		}
		for v := a; v <= b; v++ {
			names = append(names, fmt.Sprintf("%s%0*d%s", prefix, len(lo), v, suffix))
		}
	}
	return names, nil
}
