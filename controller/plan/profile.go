package plan

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strings"

	"pipefill"
)

// Profile is a fill job's configurations, as engine/pipefill/profile_file.py
// writes them.
type Profile struct {
	Version int      `json:"version"`
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`   // Inference or Training
	Device  string   `json:"device"` // what it was measured on
	Configs []Config `json:"configs"`
}

// The kinds of a profile. Training keeps its batch size within a plan.
const (
	Inference = "inference"
	Training  = "training"
)

// Config is one way to run a pass.
type Config struct {
	BatchSize     int64     `json:"batch_size"`
	Technique     Technique `json:"technique"`
	ResidentBytes int64     `json:"resident_bytes"` // on the device while a chunk runs, beside an op's peak
	SwapInNs      int64     `json:"swap_in_ns"`     // of ResidentBytes, at the begin of each chunk; both 0: it stays
	SwapOutNs     int64     `json:"swap_out_ns"`
	StaysBytes    int64     `json:"stays_bytes,omitempty"` // of ResidentBytes, where the rest is swapped: never moved
	Ops           []Op      `json:"ops"`
}

// Technique is how a configuration saves memory.
type Technique struct {
	Checkpoint bool   `json:"checkpoint"`
	Offload    string `json:"offload"` // one of Offloads
}

// Offloads are what a technique may move to the host between chunks.
var Offloads = []string{"none", "params", "activations", "optimizer"}

// String writes a technique as --technique of pipefill-cli profile takes it.
func (t Technique) String() string {
	var words []string
	if t.Checkpoint {
		words = append(words, "checkpoint")
	}
	if t.Offload != "none" && t.Offload != "" {
		words = append(words, "offload-"+t.Offload)
	}
	return cmp.Or(strings.Join(words, "+"), "plain")
}

// Op is a piece of a pass that runs as a whole.
type Op struct {
	Name      string `json:"name"`
	TimeNs    int64  `json:"time_ns"`    // what the plan counts on, synchronized
	PeakBytes int64  `json:"peak_bytes"` // beyond ResidentBytes while it runs
	LiveBytes int64  `json:"live_bytes,omitempty"`
}

// swapped tells whether it is moved out between chunks, all but StaysBytes.
func (c *Config) swapped() bool { return c.SwapInNs > 0 || c.SwapOutNs > 0 }

// staysBytes is what is on the device between chunks, live bytes aside.
func (c *Config) staysBytes() int64 {
	if c.swapped() {
		return c.StaysBytes
	}
	return c.ResidentBytes
}

// live tells whether it matters where a chunk ends.
func (c *Config) live() bool {
	for i := range c.Ops {
		if c.Ops[i].LiveBytes > 0 {
			return true
		}
	}
	return false
}

// label is how a person tells configurations apart.
func (c *Config) label(index int) string {
	return fmt.Sprintf("config %d (batch %d, %s)", index, c.BatchSize, c.Technique)
}

// passNs is what the ops of a pass take.
func (c *Config) passNs() int64 {
	var sum int64
	for i := range c.Ops {
		sum += c.Ops[i].TimeNs
	}
	return sum
}

// most bounds sums of times and of bytes, so that none of ours can overflow.
const most = math.MaxInt64 / 4

// DecodeProfile reads a fill profile; name is the file's, for messages. Its
// errors are pipefill.CodeInvalid and name line, place, value and rule.
func DecodeProfile(r io.Reader, name string) (Profile, error) {
	d, root, err := parse(r, name, "a fill profile")
	if err != nil {
		return Profile{}, err
	}
	d.version(root)
	o := d.object(root, "the profile", []string{"version", "name", "kind", "device", "configs"}, nil)
	p := Profile{
		Version: Version, Name: d.word(o["name"], "name", nil), Kind: d.word(o["kind"], "kind", []string{Inference, Training}),
		Device: d.word(o["device"], "device", nil),
	}
	if p.Name == "" {
		d.fail(o["name"], `name is "": write what the fill job is called`)
	}
	for i, n := range d.list(o["configs"], "configs") {
		p.Configs = append(p.Configs, d.config(n, fmt.Sprintf("configs[%d]", i)))
	}
	return p, d.err
}

func (d *decoder) config(n *node, where string) Config {
	o := d.object(n, where, []string{"batch_size", "technique", "resident_bytes", "swap_in_ns", "swap_out_ns", "ops"}, []string{"stays_bytes"})
	how := d.object(o["technique"], where+".technique", []string{"checkpoint", "offload"}, nil)
	c := Config{
		BatchSize: d.whole(o["batch_size"], where+".batch_size", 1, math.MaxInt32),
		Technique: Technique{
			Checkpoint: d.truth(how["checkpoint"], where+".technique.checkpoint"),
			Offload:    d.word(how["offload"], where+".technique.offload", Offloads),
		},
		ResidentBytes: d.whole(o["resident_bytes"], where+".resident_bytes", 0, most),
		SwapInNs:      d.whole(o["swap_in_ns"], where+".swap_in_ns", 0, most),
		SwapOutNs:     d.whole(o["swap_out_ns"], where+".swap_out_ns", 0, most),
		StaysBytes:    d.optional(o["stays_bytes"], where+".stays_bytes", 0, most),
	}
	if d.err == nil && c.StaysBytes > c.ResidentBytes {
		d.fail(o["stays_bytes"], "%s.stays_bytes is %d, and resident_bytes %d: what stays is a part of what is resident", where, c.StaysBytes, c.ResidentBytes)
	}
	var sum int64
	for i, op := range d.list(o["ops"], where+".ops") {
		place := fmt.Sprintf("%s.ops[%d]", where, i)
		f := d.object(op, place, []string{"name", "time_ns", "peak_bytes"}, []string{"live_bytes"})
		c.Ops = append(c.Ops, Op{
			Name:      d.word(f["name"], place+".name", nil),
			TimeNs:    d.whole(f["time_ns"], place+".time_ns", 0, most),
			PeakBytes: d.whole(f["peak_bytes"], place+".peak_bytes", 0, most),
			LiveBytes: d.optional(f["live_bytes"], place+".live_bytes", 0, most),
		})
		if sum += c.Ops[i].TimeNs; sum > most {
			d.fail(op, "%s: the ops up to here take more than %d ns in all: a pass must be shorter", place, int64(most))
			return c
		}
	}
	if d.err == nil && sum == 0 {
		d.fail(o["ops"], "%s.ops: all of them take 0 ns: at least one time_ns must be 1 or more", where)
	}
	return c
}

// Validate tells whether a profile that was not read by DecodeProfile is one.
func (p *Profile) Validate() error {
	bad := func(format string, args ...any) error {
		return pipefill.Errorf(pipefill.CodeInvalid, "fill profile %q: "+format, append([]any{p.Name}, args...)...)
	}
	if p.Name == "" || len(p.Configs) == 0 {
		return bad("it must have a name and at least one configuration")
	}
	for i := range p.Configs {
		c := &p.Configs[i]
		if c.BatchSize < 1 || c.BatchSize > math.MaxInt32 || outside(c.ResidentBytes) || outside(c.SwapInNs) || outside(c.SwapOutNs) || c.StaysBytes < 0 || c.StaysBytes > c.ResidentBytes {
			return bad("configs[%d] has a value that is out of its range", i)
		}
		var sum int64
		for j, op := range c.Ops {
			if outside(op.TimeNs) || outside(op.PeakBytes) || outside(op.LiveBytes) || outside(sum+op.TimeNs) {
				return bad("configs[%d].ops[%d] has a value that is out of its range", i, j)
			}
			sum += op.TimeNs
		}
		if sum == 0 {
			return bad("configs[%d]: its ops take 0 ns", i)
		}
	}
	return nil
}

func outside(v int64) bool { return v < 0 || v > most }
