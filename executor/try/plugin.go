package try

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pipefill"
)

// pluginTime bounds a question to the daemon.
const pluginTime = 5 * time.Second

// ask says to attach.sock what the SPANK plugin would (docs/protocol.md,
// section 2) and returns the answer's status and keys.
func (r *run) ask(verb string, keys ...string) (status string, answer map[string]string, err error) {
	path := filepath.Join(r.runDir(), "attach.sock")
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return "", nil, fmt.Errorf("ask pipefilld: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(r.Now().Add(pluginTime)); err != nil {
		return "", nil, fmt.Errorf("ask pipefilld: %w", err)
	}
	message := "pipefill 1 " + verb + "\n" + strings.Join(append([]string{
		"cluster=" + cluster, "step=batch", "node=" + node, "restarts=0", "uid=" + strconv.FormatUint(uint64(r.User.UID), 10),
	}, keys...), "\n") + "\n"
	if _, err := conn.Write([]byte(message)); err != nil {
		return "", nil, fmt.Errorf("ask pipefilld: %w", err)
	}
	buffer := make([]byte, 4096)
	n, err := conn.Read(buffer)
	if err != nil {
		return "", nil, fmt.Errorf("ask pipefilld: %w", err)
	}
	lines := strings.Split(strings.TrimSuffix(string(buffer[:n]), "\n"), "\n")
	answer = map[string]string{}
	for _, line := range lines[1:] {
		key, value, _ := strings.Cut(line, "=")
		answer[key] = value
	}
	if lines[0] == "error" {
		return "", nil, pipefill.Errorf(pipefill.CodeUnavailable, "pipefilld: %s", answer["message"])
	}
	return lines[0], answer, nil
}

func jobKey(id int64) string { return "job=" + strconv.FormatInt(id, 10) }
