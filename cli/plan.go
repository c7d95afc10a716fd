package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/plan"
)

// planCommand works from files alone; it asks nobody.
func (p *program) planCommand() *cli.Command {
	return command(&cli.Command{
		Name: "plan", Usage: "make the execution plan of fill jobs for a device's bubble cycle, from files",
		Flags: outputFlags(
			&cli.StringSliceFlag{Name: "profile", Usage: "a fill job's profile, `FILE` of pipefill-cli profile; several share the device"},
			&cli.StringSliceFlag{Name: "bubbles", Usage: "`FILE` of a bubble cycle; several are the devices of a gang"},
			&cli.BoolFlag{Name: "single", Usage: "one configuration for each job, no mix"},
			&cli.StringSliceFlag{Name: "main-state", Usage: "state that the main job could move to the host over some bubbles: `NAME=SIZE,OUT,IN`, like optimizer=8GiB,400ms,350ms"},
			&cli.BoolFlag{Name: "explain", Usage: "say of each configuration what it gives by itself, or which limit is in its way"},
			&cli.StringFlag{Name: "svg", Usage: "draw the plan over the cycle into `FILE`"},
			&cli.StringFlag{Name: "html", Usage: "the same as a page"},
		),
		Action: func(c *cli.Context) error {
			in, err := readPlanInput(c)
			if err != nil {
				return err
			}
			made, err := in.make()
			if c.Bool("explain") {
				if explainErr := p.explainPlan(c, in, err); explainErr != nil {
					return explainErr
				}
			}
			if err != nil {
				return err
			}
			for flag, draw := range map[string]func(io.Writer, plan.Plan, []pipefill.BubbleCycle, []plan.Profile) error{"svg": plan.SVG, "html": plan.HTML} {
				if path := c.String(flag); path != "" {
					if err := writeWhole(path, func(w io.Writer) error { return draw(w, made, in.cycles, in.profiles) }); err != nil {
						return err
					}
				}
			}
			return p.printPlan(c, in, made)
		},
	})
}

// planInput is what a plan is made of.
type planInput struct {
	profiles []plan.Profile
	cycles   []pipefill.BubbleCycle
	options  plan.Options
}

func (in *planInput) make() (plan.Plan, error) {
	if len(in.cycles) > 1 {
		return plan.Gang(in.cycles, in.profiles[0], in.options)
	}
	return plan.Make(in.cycles[0], in.profiles, in.options)
}

func readPlanInput(c *cli.Context) (*planInput, error) {
	in := &planInput{options: plan.Options{SingleOnly: c.Bool("single")}}
	switch profiles, cycles := len(c.StringSlice("profile")), len(c.StringSlice("bubbles")); {
	case c.NArg() > 0:
		return nil, usage("plan takes no argument: write --profile FILE --bubbles FILE, not %q", c.Args().First())
	case profiles == 0 || cycles == 0:
		return nil, usage("plan: write --profile FILE, from pipefill-cli profile, and --bubbles FILE, from pipefill-cli bubbles --cycle")
	case profiles > 1 && cycles > 1:
		return nil, usage("plan: several --bubbles are a gang's devices, for one --profile")
	}
	for _, path := range c.StringSlice("profile") {
		p, err := readFile(path, plan.DecodeProfile)
		if err != nil {
			return nil, err
		}
		in.profiles = append(in.profiles, p)
	}
	for _, path := range c.StringSlice("bubbles") {
		cycle, err := readFile(path, plan.DecodeCycle)
		if err != nil {
			return nil, err
		}
		in.cycles = append(in.cycles, cycle)
	}
	for _, text := range c.StringSlice("main-state") {
		state, err := parseMainState(text)
		if err != nil {
			return nil, err
		}
		if state.Name == api.MoveCache { // which the main job has to have back at a bubble's end
			for _, b := range in.cycles[0].Bubbles {
				state.Over = append(state.Over, b.Index)
			}
		}
		in.options.MainState = append(in.options.MainState, state)
	}
	return in, nil
}

func readFile[T any](path string, decode func(io.Reader, string) (T, error)) (value T, err error) {
	file, err := os.Open(path) //nolint:gosec // the user's own file, as the user
	if err != nil {
		code := pipefill.CodeInvalid
		if errors.Is(err, fs.ErrNotExist) {
			code = pipefill.CodeNotFound
		}
		return value, pipefill.Errorf(code, "%w", err)
	}
	defer func() { _ = file.Close() }() // read only
	return decode(file, path)
}

// parseMainState reads NAME=SIZE,OUT,IN.
func parseMainState(text string) (plan.MainState, error) {
	name, rest, _ := strings.Cut(text, "=")
	parts := strings.Split(rest, ",")
	if name == "" || len(parts) != 3 {
		return plan.MainState{}, usage("plan: --main-state %q: write NAME=SIZE,OUT,IN, like optimizer=8GiB,400ms,350ms", text)
	}
	bytes, err := pipefill.ParseSize(parts[0])
	out, outErr := time.ParseDuration(parts[1])
	in, inErr := time.ParseDuration(parts[2])
	if err := errors.Join(err, outErr, inErr); err != nil || out < 0 || in < 0 {
		return plan.MainState{}, usage("plan: --main-state %q: write a size like 8GiB and two durations like 400ms, 0 or more", text)
	}
	return plan.MainState{Name: name, Bytes: bytes, OutNs: int64(out), InNs: int64(in)}, nil
}

// explainPlan says what each configuration and form gives; beside --json on
// standard error, so that standard output stays a plan.
func (p *program) explainPlan(c *cli.Context, in *planInput, failed error) error {
	w := p.env.Stdout
	if c.Bool("json") || failed != nil {
		w = p.env.Stderr
	}
	cycle := in.cycles[0]
	if len(in.cycles) > 1 {
		joint, _, err := plan.Coincide(in.cycles)
		if err != nil {
			return err
		}
		cycle = joint
	}
	var lines []string
	for _, profile := range in.profiles {
		verdicts, err := plan.Explain(profile, cycle)
		if err != nil {
			return err
		}
		for _, v := range verdicts {
			lines = append(lines, v.String())
		}
	}
	forms, err := plan.Forms(cycle, in.profiles, in.options)
	if err != nil {
		return err
	}
	for _, f := range forms {
		lines = append(lines, fmt.Sprintf("%s: %.6g samples a cycle, which take %.3f ms on an idle device", f.Name, f.SamplesPerCycle, f.UsefulNs/1e6))
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, oneLine(line)); err != nil {
			return err
		}
	}
	return nil
}

// planRows bounds the table: a period may have thousands of cycles.
const planRows = 200

type planRow struct {
	plan.Chunk
	batch int64
	how   string
}

var planColumns = []column[planRow]{
	{"CYCLE", true, func(r planRow) string { return strconv.Itoa(r.Cycle) }},
	{"BUBBLE", true, func(r planRow) string { return strconv.Itoa(r.Bubble) }},
	{"DEVICE", true, func(r planRow) string { return strconv.Itoa(r.Device) }},
	{"JOB", false, func(r planRow) string { return r.Job }},
	{"CONFIG", true, func(r planRow) string { return strconv.Itoa(r.Config) }},
	{"BATCH", true, func(r planRow) string { return strconv.FormatInt(r.batch, 10) }},
	{"TECHNIQUE", false, func(r planRow) string { return r.how }},
	{"FIRST_OP", true, func(r planRow) string { return strconv.Itoa(r.FirstOp) }},
	{"OPS", true, func(r planRow) string { return strconv.Itoa(r.OpCount) }},
	{"TIME_MS", true, func(r planRow) string { return fmt.Sprintf("%.3f", float64(r.TimeNs)/1e6) }},
	{"PEAK", true, func(r planRow) string { return size(r.PeakBytes) }},
}

func (p *program) printPlan(c *cli.Context, in *planInput, made plan.Plan) error {
	if c.Bool("json") {
		return made.Encode(p.env.Stdout)
	}
	rows := []planRow{}
	for _, k := range made.Chunks {
		for i := range in.profiles {
			if in.profiles[i].Name == k.Job && len(rows) < planRows {
				config := in.profiles[i].Configs[k.Config]
				rows = append(rows, planRow{k, config.BatchSize, config.Technique.String()})
			}
		}
	}
	if err := printRows(p.env.Stdout, c, rows, planColumns); err != nil || c.Bool("parsable2") {
		return err
	}
	lines := []string{}
	if more := len(made.Chunks) - len(rows); more > 0 {
		lines = append(lines, fmt.Sprintf("... and %d more chunks: --json has all", more))
	}
	for _, m := range made.MainOffload {
		lines = append(lines, fmt.Sprintf("main state %s (%s) is away from the begin of bubble %d to the end of bubble %d%s", m.Name, size(m.Bytes), m.OutBubble, m.InBubble, mainSetting(m)))
	}
	lines = append(lines, made.Summary(in.cycles[0]))
	for _, line := range lines {
		if _, err := fmt.Fprintln(p.env.Stdout, oneLine(line)); err != nil {
			return err
		}
	}
	return nil
}

// mainSetting is what a main job's environment tells its hook of state that a
// plan moves (engine/pipefill/hooks/away.py), or what its owner permits with sbatch, for what hooks can move.
func mainSetting(m plan.MainOffload) string {
	switch m.Name {
	case api.MoveOptimizer:
		return fmt.Sprintf(": PIPEFILL_OFFLOAD=optimizer=%d-%d", m.OutBubble, m.InBubble)
	case api.MoveCache:
		return ": --pipefill=move=cache"
	}
	return ""
}
