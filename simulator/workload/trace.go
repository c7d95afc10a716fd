package workload

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"pipefill"
)

// Format is a kind of trace file.
type Format string

// The formats. Runtimes is a CSV file with one column, runtime, in seconds:
// arrivals are drawn.
const (
	SWF          Format = "swf"
	AlibabaV2020 Format = "alibaba-v2020"
	AlibabaV2023 Format = "alibaba-v2023"
	Runtimes     Format = "runtimes"
)

// Formats lists what a file may name.
var Formats = []Format{SWF, AlibabaV2020, AlibabaV2023, Runtimes}

// Load reads a trace, line by line. Malformed lines are left out and told by
// number; a file of which most lines are malformed is refused, as it is another
// format.
func Load(format Format, path string) (_ Trace, err error) {
	file, err := os.Open(path) //nolint:gosec // the user names it, as the user
	if err != nil {
		return Trace{}, pipefill.Errorf(pipefill.CodeInvalid, "workload: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	t, err := Read(format, path, file)
	if err != nil {
		return t, err
	}
	if good := len(t.Jobs) + t.Skipped; t.Bad > good {
		first := t.Mistakes[0]
		return t, pipefill.Errorf(pipefill.CodeInvalid, "%s: %d of %d lines are malformed, the first is line %d: %s: is it a file of the format %s?",
			path, t.Bad, t.Bad+good, first.Line, first.What, format)
	}
	if len(t.Jobs) == 0 {
		return t, pipefill.Errorf(pipefill.CodeInvalid, "%s: no job in it that asks for a GPU and has ended (%d others)", path, t.Skipped)
	}
	return t, nil
}

// Read is Load of an open file; name is for messages.
func Read(format Format, name string, from io.Reader) (Trace, error) {
	var t Trace
	var err error
	switch format {
	case SWF:
		err = t.readSWF(from)
	case AlibabaV2020:
		err = t.readCSV(from, taskColumns, taskNeeds, t.task)
	case AlibabaV2023:
		err = t.readCSV(from, nil, podNeeds, t.pod)
	case Runtimes:
		err = t.readCSV(from, nil, []string{"runtime"}, t.runtime)
	default:
		return t, pipefill.Errorf(pipefill.CodeInvalid, "format: %q: write one of %v", format, Formats)
	}
	if err != nil {
		return t, pipefill.Errorf(pipefill.CodeInvalid, "%s: %w", name, err)
	}
	t.Settle()
	return t, nil
}

// The Standard Workload Format (Feitelson): 18 numbers a line, ; begins a
// comment, -1 is unknown.
const (
	swfFields = 18
	swfSubmit = 1
	swfRun    = 3
	swfProcs  = 4
	swfAsked  = 7
	swfUser   = 11
)

func (t *Trace) readSWF(from io.Reader) error {
	scanner := bufio.NewScanner(from)
	scanner.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for line := 1; scanner.Scan(); line++ {
		text := strings.TrimSpace(scanner.Text())
		if text == "" || text[0] == ';' {
			continue
		}
		t.swf(line, strings.Fields(text))
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}

func (t *Trace) swf(line int, fields []string) {
	if len(fields) != swfFields {
		t.mistake(line, fmt.Sprintf("%d fields, a line of this format has %d", len(fields), swfFields))
		return
	}
	var v [swfFields]float64
	for i, field := range fields {
		var err error
		if v[i], err = number(field); err != nil {
			t.mistake(line, fmt.Sprintf("field %d: %q is no number", i+1, field))
			return
		}
	}
	procs := v[swfProcs]
	if procs <= 0 {
		procs = v[swfAsked]
	}
	switch {
	case v[swfSubmit] < 0:
		t.mistake(line, fmt.Sprintf("field %d: a submit time of %g", swfSubmit+1, v[swfSubmit]))
	case procs > maxDevices:
		t.mistake(line, fmt.Sprintf("%g processors: more than %d", procs, maxDevices))
	case v[swfRun] <= 0 || procs <= 0:
		t.Skipped++
	default:
		t.add(line, v[swfSubmit], v[swfRun], procs, int(v[swfUser]))
	}
}

// maxDevices and longestS bound what a line may say: beyond it is no job but
// a unit mistaken.
const (
	maxDevices = 1 << 20
	longestS   = 100 * 365 * 86400
)

func (t *Trace) add(line int, submitS, runS, devices float64, user int) {
	if runS > longestS || submitS > longestS {
		t.mistake(line, fmt.Sprintf("times of %g s and %g s: more than a century", submitS, runS))
		return
	}
	t.Jobs = append(t.Jobs, Job{
		SubmitMs: int64(submitS * 1e3), RunMs: max(1, int64(runS*1e3)), Devices: max(1, int(math.Ceil(devices))), User: user, Line: line,
	})
}

func number(field string) (float64, error) {
	x, err := strconv.ParseFloat(field, 64)
	if err == nil && (math.IsNaN(x) || math.IsInf(x, 0)) {
		err = strconv.ErrRange
	}
	return x, err
}

// row is one line of a CSV file, by column.
type row struct {
	fields []string
	at     map[string]int
	line   int
}

func (r row) get(column string) string {
	if i, ok := r.at[column]; ok && i < len(r.fields) {
		return strings.TrimSpace(r.fields[i])
	}
	return ""
}

// readCSV reads a file whose first line names its columns, or, where columns are
// given, one that may lack that line.
func (t *Trace) readCSV(from io.Reader, columns, needs []string, take func(row) string) error {
	reader := csv.NewReader(from)
	reader.FieldsPerRecord, reader.ReuseRecord, reader.LazyQuotes = -1, true, true
	var at map[string]int
	for {
		fields, err := reader.Read()
		if errors.Is(err, io.EOF) {
			if at == nil {
				return fmt.Errorf("it is empty")
			}
			return nil
		}
		if bad, ok := errors.AsType[*csv.ParseError](err); ok {
			t.mistake(bad.StartLine, bad.Err.Error())
			continue
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		line, _ := reader.FieldPos(0)
		if at == nil {
			named := slices.Contains(fields, needs[0])
			at = positions(columns)
			if named || columns == nil {
				at = positions(fields)
			}
			if lacks := missing(at, needs); len(lacks) > 0 {
				return fmt.Errorf("line %d: the columns %s are missing: this format needs %s", line, strings.Join(lacks, ", "), strings.Join(needs, ", "))
			}
			if named || columns == nil {
				continue
			}
		}
		if columns != nil && len(fields) != len(at) {
			t.mistake(line, fmt.Sprintf("%d fields, not %d", len(fields), len(at)))
			continue
		}
		if what := take(row{fields, at, line}); what != "" {
			t.mistake(line, what)
		}
	}
}

func positions(names []string) map[string]int {
	at := map[string]int{}
	for i, name := range names {
		at[strings.TrimPrefix(strings.TrimSpace(name), "\ufeff")] = i
	}
	return at
}

func missing(at map[string]int, needs []string) (lacks []string) {
	for _, name := range needs {
		if _, ok := at[name]; !ok {
			lacks = append(lacks, name)
		}
	}
	return lacks
}

// numbers reads columns as numbers, and says which is none.
func (r row) numbers(names ...string) (values []float64, wrong string) {
	for _, name := range names {
		x, err := number(r.get(name))
		if err != nil {
			return nil, fmt.Sprintf("%s: %q is no number", name, r.get(name))
		}
		values = append(values, x)
	}
	return values, ""
}

var (
	// Of cluster-trace-gpu-v2020's pai_task_table, whose files have no line of names.
	taskColumns = []string{"job_name", "task_name", "inst_num", "status", "start_time", "end_time", "plan_cpu", "plan_mem", "plan_gpu", "gpu_type"}
	taskNeeds   = []string{"job_name", "inst_num", "status", "start_time", "end_time", "plan_gpu"}
	// Of cluster-trace-gpu-v2023's openb_pod_list.
	podNeeds = []string{"num_gpu", "creation_time", "deletion_time", "scheduled_time"}
)

// task takes one task of v2020: as many instances, each with plan_gpu per cent of
// a GPU. Tasks that have not ended, or ask for no GPU, are skipped.
func (t *Trace) task(r row) string {
	if r.get("plan_gpu") == "" || r.get("status") != "Terminated" {
		t.Skipped++
		return ""
	}
	v, wrong := r.numbers("inst_num", "start_time", "end_time", "plan_gpu")
	switch {
	case wrong != "":
		return wrong
	case v[0] < 1 || v[0]*math.Ceil(v[3]/100) > maxDevices:
		return fmt.Sprintf("inst_num: %g instances of %g %% of a GPU", v[0], v[3])
	case v[3] <= 0:
		t.Skipped++
	case v[2] < v[1]:
		return fmt.Sprintf("end_time: %g is before start_time %g", v[2], v[1])
	case v[2] == v[1]:
		t.Skipped++
	default:
		t.add(r.line, v[1], v[2]-v[1], v[0]*math.Ceil(v[3]/100), 0)
	}
	return ""
}

// pod takes one pod of v2023. Those that never started, or ask for no GPU, are
// skipped; one that still ran when the trace was cut counts until then.
func (t *Trace) pod(r row) string {
	if r.get("scheduled_time") == "" || r.get("deletion_time") == "" {
		t.Skipped++
		return ""
	}
	v, wrong := r.numbers("num_gpu", "creation_time", "scheduled_time", "deletion_time")
	switch {
	case wrong != "":
		return wrong
	case v[0] < 0 || v[0] > maxDevices:
		return fmt.Sprintf("num_gpu: %g", v[0])
	case v[3] < v[2]:
		return fmt.Sprintf("deletion_time: %g is before scheduled_time %g", v[3], v[2])
	case v[0] == 0 || v[3] == v[2]:
		t.Skipped++
	default:
		t.add(r.line, v[1], v[3]-v[2], v[0], 0)
	}
	return ""
}

// runtime takes one run time in seconds; all arrive at once, for others to spread.
func (t *Trace) runtime(r row) string {
	v, wrong := r.numbers("runtime")
	switch {
	case wrong != "":
		return wrong
	case v[0] < 0:
		return fmt.Sprintf("runtime: %g", v[0])
	case v[0] == 0:
		t.Skipped++
	default:
		t.add(r.line, 0, v[0], 1, 0)
	}
	return ""
}
