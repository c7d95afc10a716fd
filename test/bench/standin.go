package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// standin is a slurmrestd that speaks the wire of 22.05 (v0.0.38), with the
// jobs of a big cluster: each record is one that a real one wrote, with other
// numbers in it. What scontrol would do it does for links of that name to this
// program.
type standin struct {
	mu      sync.Mutex
	jobs    []*standinJob
	before  string // of a record, up to what differs
	changed time.Time
	nodes   int
	starts  chan started
	lists   int // so many times all jobs were listed
	reads   int
}

// standinJob is what differs between jobs.
type standinJob struct {
	id       int64
	user     int
	state    string
	held     bool
	pin      string
	comment  string
	nodes    string
	submitS  int64
	startS   int64
	restarts int
}

type started struct {
	id   int64
	node string
}

const standinFirst = 1000 // the number of the first job

func newStandin(root string, jobs, nodes int) (*standin, error) {
	text, err := os.ReadFile(filepath.Join(root, "controller/slurm/testdata/slurm-22.05.8/jobs.v0038.json"))
	if err != nil {
		return nil, fmt.Errorf("recorded answer: %w", err)
	}
	var answer struct {
		Jobs []map[string]any `json:"jobs"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("recorded answer: %w", err)
	}
	record := answer.Jobs[1] // a held one
	for _, key := range []string{
		"job_id", "user_id", "user_name", "job_state", "priority", "admin_comment", "nodes", "required_nodes", "submit_time", "start_time", "restart_cnt", "name",
		"account", "partition", "time_limit",
		"tres_per_node", "comment",
	} {
		delete(record, key)
	}
	rest, err := json.MarshalIndent(record, "    ", "  ")
	if err != nil {
		return nil, err
	}
	s := &standin{before: strings.TrimSuffix(strings.TrimSpace(string(rest)), "\n    }"), changed: time.Now(), nodes: nodes, starts: make(chan started, jobs)}
	for i := range jobs {
		s.jobs = append(s.jobs, &standinJob{id: standinFirst + int64(i), user: i % 200, state: "PENDING", held: true, submitS: s.changed.Unix() - int64(jobs-i)})
	}
	return s, nil
}

func (s *standin) write(w io.Writer, j *standinJob) {
	priority := 1
	if j.held {
		priority = 0
	}
	_, _ = fmt.Fprintf(w, `%s,
      "job_id": %d, "user_id": %d, "user_name": "user%d", "account": "account%d", "job_state": %q, "priority": %d, "admin_comment": %q, "nodes": %q,
      "required_nodes": %q, "submit_time": %d, "start_time": %d, "restart_cnt": %d, "name": "job%d", "partition": "pipefill", "time_limit": %d,
      "tres_per_node": "", "comment": ""
    }`, s.before, j.id, 10000+j.user, j.user, j.user%20, j.state, priority, j.comment, j.nodes, j.pin, j.submitS, j.startS, j.restarts, j.id%50, 10+j.id%600)
}

const standinHead = "{\n  \"meta\": {\"plugin\": {\"type\": \"openapi/v0.0.38\", \"name\": \"stand-in\"}},\n  \"errors\": [],\n"

func (s *standin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/slurm/v0.0.38/")
	if !ok {
		http.Error(w, "Unable find requested URL.", http.StatusNotFound)
		return
	}
	s.mu.Lock()
	locked := true
	defer func() {
		if locked {
			s.mu.Unlock()
		}
	}()
	out := bufio.NewWriterSize(w, 1<<16)
	defer func() { _ = out.Flush() }()
	id, single := strings.CutPrefix(path, "job/")
	switch {
	case path == "jobs":
		since, err := strconv.ParseInt(r.URL.Query().Get("update_time"), 10, 64)
		if err == nil && since-1 >= s.changed.Unix() {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		s.lists++
		all := make([]standinJob, len(s.jobs))
		for i, j := range s.jobs {
			all[i] = *j
		}
		s.mu.Unlock()
		locked = false
		s.list(out, all)
	case single:
		s.reads++
		n, _ := strconv.ParseInt(id, 10, 64)
		j := s.find(n)
		if j == nil {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(out, `{"errors": [{"error_number": 2017, "error": "Invalid job id specified"}], "jobs": []}`)
			return
		}
		if r.Method == http.MethodPost {
			j.held = true
			s.changed = time.Now()
		}
		s.list(out, []standinJob{*j})
	case path == "nodes":
		_, _ = io.WriteString(out, standinHead+`"nodes": [`)
		for i := range s.nodes {
			if i > 0 {
				_, _ = io.WriteString(out, ",")
			}
			_, _ = fmt.Fprintf(out, `{"name": "n%04d", "state": "mixed", "state_flags": [], "partitions": ["main", "pipefill"], "cpus": 96, "alloc_cpus": 90, "real_memory": 1000000, "alloc_memory": 800000}`, i)
		}
		_, _ = io.WriteString(out, "]}")
	case path == "partitions":
		_, _ = io.WriteString(out, standinHead+`"partitions": [{"name": "main", "state": "UP"}, {"name": "pipefill", "state": "UP"}]}`)
	default: // ping
		_, _ = io.WriteString(out, standinHead+`"pings": []}`)
	}
}

func (s *standin) list(out io.Writer, jobs []standinJob) {
	_, _ = io.WriteString(out, standinHead+"  \"jobs\": [")
	for i := range jobs {
		if i > 0 {
			_, _ = io.WriteString(out, ",")
		}
		_, _ = io.WriteString(out, "\n    ")
		s.write(out, &jobs[i])
	}
	_, _ = io.WriteString(out, "\n  ]\n}\n")
}

func (s *standin) find(id int64) *standinJob {
	if id < standinFirst || id >= standinFirst+int64(len(s.jobs)) {
		return nil
	}
	return s.jobs[id-standinFirst]
}

// control is scontrol: update and release.
func (s *standin) control(args []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(args) < 2 {
		return "what is to be done?"
	}
	s.changed = time.Now()
	set := map[string]string{}
	for _, a := range args[1:] {
		key, value, _ := strings.Cut(a, "=")
		set[key] = value
	}
	name := set["JobId"]
	if args[0] != "update" {
		name = args[1]
	}
	id, _ := strconv.ParseInt(name, 10, 64)
	j := s.find(id)
	if j == nil {
		return "Invalid job id specified"
	}
	switch args[0] {
	case "update":
		if pin, ok := set["ReqNodeList"]; ok {
			j.pin, j.comment = pin, set["AdminComment"]
		}
		j.held = j.held || set["Priority"] == "0"
	case "release":
		j.held, j.state, j.nodes, j.startS = false, "RUNNING", j.pin, time.Now().Unix()
		s.starts <- started{j.id, j.pin}
	case "requeuehold":
		j.held, j.state, j.pin, j.comment, j.nodes = true, "PENDING", "", "", ""
		j.restarts++
	}
	return ""
}

// serve answers both on Unix sockets in dir.
func (s *standin) serve(ctx context.Context, dir string) (stop func(), err error) {
	rest, err := new(net.ListenConfig).Listen(ctx, "unix", filepath.Join(dir, "slurmrestd.sock"))
	if err != nil {
		return nil, fmt.Errorf("stand-in: %w", err)
	}
	control, err := new(net.ListenConfig).Listen(ctx, "unix", filepath.Join(dir, "scontrol.sock"))
	if err != nil {
		return nil, fmt.Errorf("stand-in: %w", err)
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(rest) }()
	go func() {
		for {
			conn, err := control.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err == nil {
					_, _ = io.WriteString(conn, s.control(strings.Split(strings.TrimSuffix(line, "\n"), "\x00")))
				}
			}()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return func() { _, _ = server.Close(), control.Close() }, os.Symlink(self, filepath.Join(dir, "scontrol"))
}

// scontrol is this program under that name: it hands its arguments to the
// stand-in, which is where slurm.conf is.
func scontrol(args []string) int {
	conn, err := new(net.Dialer).DialContext(context.Background(), "unix", filepath.Join(filepath.Dir(os.Getenv("SLURM_CONF")), "scontrol.sock"))
	if err == nil {
		_, err = io.WriteString(conn, strings.Join(args, "\x00")+"\n")
	}
	var said []byte
	if err == nil {
		said, err = io.ReadAll(conn)
	}
	if err != nil {
		said = []byte(err.Error())
	}
	if len(said) == 0 {
		return 0
	}
	_, _ = fmt.Fprintln(os.Stderr, string(said))
	return 1
}
