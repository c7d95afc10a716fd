package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	tea "github.com/charmbracelet/bubbletea"

	"pipefill/api"
)

// topModel is the screen: what it shows, and where in it its user is.
type topModel struct {
	ctx   context.Context //nolint:containedctx // the library calls without one
	look  func(context.Context) topData
	delay time.Duration
	left  int // looks until the end; 0: no end

	width, height int
	data          topData
	view          int // of topViews
	first         int // the first row that is shown
	sort          int // column, counted from 1; 0: as they come
	reverse       bool
	paused, help  bool
	typing        bool
	filter        string
}

const (
	viewDevices = iota
	viewQueue
	topViews
)

type (
	topLooked topData
	topTick   struct{}
)

// Init looks at once.
func (m topModel) Init() tea.Cmd { return m.ask }

func (m topModel) ask() tea.Msg { return topLooked(m.look(m.ctx)) }

// Update takes in a key, a look, or a new size.
func (m topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = max(20, msg.Width), max(6, msg.Height)
	case topLooked:
		if m.data = topData(msg); m.left == 1 {
			return m, tea.Quit
		}
		m.left = max(0, m.left-1)
		return m.clamp(), tea.Tick(m.delay, func(time.Time) tea.Msg { return topTick{} })
	case topTick:
		if m.paused {
			return m, tea.Tick(m.delay, func(time.Time) tea.Msg { return topTick{} })
		}
		return m, m.ask
	case tea.KeyMsg:
		return m.keys(msg)
	}
	return m, nil
}

// keys takes keys one by one: over a slow line several come at once.
func (m topModel) keys(msg tea.KeyMsg) (tea.Model, tea.Cmd) {
	if msg.Type != tea.KeyRunes || len(msg.Runes) < 2 {
		return m.key(msg.String(), msg)
	}
	for _, r := range msg.Runes {
		one := tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune{r}}
		next, cmd := m.key(string(r), one)
		if cmd != nil {
			return next, cmd
		}
		if model, ok := next.(topModel); ok {
			m = model
		}
	}
	return m, nil
}

// key is what htop and squeue's users try.
func (m topModel) key(key string, msg tea.KeyMsg) (tea.Model, tea.Cmd) {
	if m.typing {
		return m.typed(key, msg), nil
	}
	page := max(1, m.height-topHead-3)
	switch key {
	case "q", "f10", "ctrl+c", "ctrl+d":
		return m, tea.Quit
	case "h", "?", "f1":
		m.help = !m.help
	case "esc":
		m.help, m.filter = false, ""
	case "tab":
		m.view, m.first, m.sort = (m.view+1)%topViews, 0, 0
	case "1", "2":
		m.view, m.first, m.sort = int(key[0]-'1'), 0, 0
	case "up", "k":
		m.first--
	case "down", "j":
		m.first++
	case "pgup", "ctrl+b":
		m.first -= page
	case "pgdown", "ctrl+f", " ":
		m.first += page
	case "home", "g":
		m.first = 0
	case "end", "G":
		m.first = len(m.data.slots) + len(m.data.jobs)
	case ">", "f6":
		m.sort = (m.sort + 1) % (m.columns() + 1)
	case "<":
		m.sort = (m.sort + m.columns()) % (m.columns() + 1)
	case "r", "I":
		m.reverse = !m.reverse
	case "p", "Z":
		m.paused = !m.paused
	case "+":
		m.delay = min(2*m.delay, time.Minute)
	case "-":
		m.delay = max(m.delay/2, 500*time.Millisecond)
	case "/", "f3", "f4", "u":
		m.typing, m.filter = true, ""
	}
	return m.clamp(), nil
}

// typed takes in a filter, key by key.
func (m topModel) typed(key string, msg tea.KeyMsg) topModel {
	switch key {
	case "enter":
		m.typing = false
	case "esc", "ctrl+c":
		m.typing, m.filter = false, ""
	case "backspace":
		_, size := utf8.DecodeLastRuneInString(m.filter)
		m.filter = m.filter[:len(m.filter)-size]
	default:
		if msg.Type == tea.KeyRunes || msg.Type == tea.KeySpace {
			m.filter += string(msg.Runes)
		}
	}
	return m.clamp()
}

// clamp keeps the first row within what there is.
func (m topModel) clamp() topModel {
	m.first = max(0, min(m.first, len(m.rows())-1-max(1, m.height-topHead-2)))
	return m
}

// topHead are the lines above the rows: two of figures and one of keys.
const topHead = 3

// View draws exactly the height of the screen.
func (m topModel) View() string {
	lines := m.head()
	names := []string{"1 devices", "2 queue"}
	for i := range names {
		if i == m.view {
			names[i] = "[" + names[i] + "]"
		}
	}
	keys := strings.Join(names, "  ") + "  Tab / filter <> sort r reverse p pause h help q quit"
	switch {
	case m.typing:
		keys = "filter: " + m.filter + "_"
	case m.filter != "":
		keys = fmt.Sprintf("%s  filter %q (Esc ends it)", strings.Join(names, "  "), m.filter)
	}
	lines = append(lines, keys)
	rows := m.rows()
	if m.help {
		rows = topHelp
	}
	if len(rows) > 0 {
		lines = append(lines, rows[0])
		rows = rows[1:]
		rows = rows[min(m.first, len(rows)):]
	}
	lines = append(lines, rows...)
	lines = lines[:min(len(lines), m.height)]
	for len(lines) < m.height {
		lines = append(lines, "")
	}
	for i, line := range lines {
		lines[i] = clip(line, m.width)
	}
	return strings.Join(lines, "\n")
}

var topHelp = []string{
	"Keys", "  Tab, 1, 2         devices, the queue", "  arrows, j, k      a row up or down; PgUp, PgDn, Home, End",
	"  < > or F6         sort by the column before or after; r the other way", "  /, F4 or u        only rows with a text, as a user's name; Esc ends it",
	"  p, + and -        pause; look more seldom, or more often", "  h, F1             this; q, F10, Ctrl-C: quit", "",
	"Devices", "  BUBBLES           an iteration from left to right: = computing, # bubble offered, with",
	"                    a fill job there; - bubble offered, free", "  FILLED            share of announced bubbles that fill jobs used",
	"  OVERHEAD          interval of the main job's slow-down, and ! where it is over its budget",
}

// clip cuts a line at the width of the screen.
func clip(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:width-1]) + "+"
}

// head is what is going on, in two lines.
func (m topModel) head() []string {
	d := m.data
	if d.err != nil {
		return []string{"pipefill  " + d.at.Format("15:04:05"), oneLine(d.err.Error())}
	}
	filled, shut := 0, 0
	var bubbles, used, offered, iteration int64
	over := 0
	for _, s := range d.slots {
		switch {
		case s.FillJob != 0:
			filled++
		case !s.Main.Enabled:
			shut++
		}
		bubbles, used = bubbles+s.Main.Totals.BubbleNs, used+s.Main.Totals.FilledNs
		offered, iteration = offered+bubbleNs(s.Main), iteration+s.Main.Cycle.IterationNs
		if overBudget(s) {
			over++
		}
	}
	count := map[string]int{}
	for _, j := range d.jobs {
		count[j.State]++
	}
	state := ""
	if m.paused {
		state = " PAUSED"
	}
	faults := ""
	if n := len(d.status.Faults); n > 0 {
		faults = fmt.Sprintf(", %d faults (doctor)", n)
	}
	return []string{
		fmt.Sprintf("pipefill %s %s%s  devices: %d filled %d free %d shut  jobs: %d run %d wait %d held", oneLine(d.status.Cluster), d.at.Format("15:04:05"),
			state, filled, len(d.slots)-filled-shut, shut, count["running"]+count["attached"], count["queued"]+count["reserved"]+count["released"], count["held"]),
		fmt.Sprintf("offered %s of time, filled %s of bubbles, %d over budget%s", percent(offered, iteration), percent(used, bubbles), over, faults),
	}
}

// overBudget tells whether a main job is surely slowed by more than it accepts.
func overBudget(s api.Slot) bool {
	return s.Main.Budget > 0 && s.Main.Totals.OverheadLo > s.Main.Budget
}

var topSlotColumns = []column[api.Slot]{
	slotColumns[0], slotColumns[1], slotColumns[2], slotColumns[3],
	{"BUBBLES", false, cycleBar},
	{"FILLJOB", true, func(s api.Slot) string {
		switch {
		case s.FillJob != 0:
			return fmt.Sprint(s.FillJob)
		case !s.Main.Enabled:
			return "shut"
		}
		return "-"
	}},
	{"FILLED", true, func(s api.Slot) string { return percent(s.Main.Totals.FilledNs, s.Main.Totals.BubbleNs) }},
	{"OVERHEAD", true, func(s api.Slot) string {
		t := s.Main.Totals
		if t.OverheadLo == 0 && t.OverheadHi == 0 || t.OverheadHi-t.OverheadLo >= 0.4 {
			return "N/A"
		}
		mark := ""
		if overBudget(s) {
			mark = "!"
		}
		return fmt.Sprintf("%+.1f..%+.1f%%%s", 100*t.OverheadLo, 100*t.OverheadHi, mark)
	}},
	{"ITER_MS", true, slotColumns[4].text},
	{"WHY", false, func(s api.Slot) string { return cmp.Or(s.Main.Reason, s.Main.Slow) }},
}

var topJobColumns = func() []column[api.FillJob] {
	columns, err := pick(queueColumns, "jobid,user,name,state,devtime,limit,tries,node,device,reason")
	if err != nil {
		return queueColumns
	}
	return columns
}()

// cycleWidth is how many characters an iteration has.
const cycleWidth = 16

// cycleBar draws a device's iteration.
func cycleBar(s api.Slot) string {
	bar := []byte(strings.Repeat("=", cycleWidth))
	length := s.Main.Cycle.IterationNs
	if length <= 0 {
		return strings.Repeat("?", cycleWidth)
	}
	mark := byte('-')
	if s.FillJob != 0 {
		mark = '#'
	}
	for _, b := range s.Main.Cycle.Bubbles {
		begin, end := b.StartNs*cycleWidth/length, (b.StartNs+b.DurationNs+length/cycleWidth-1)*cycleWidth/length
		for i := begin; i < max(end, begin+1); i++ {
			bar[((i%cycleWidth)+cycleWidth)%cycleWidth] = mark // one may wrap around the mark
			if i-begin >= cycleWidth {
				break
			}
		}
	}
	return string(bar)
}

func (m topModel) columns() int {
	if m.view == viewDevices {
		return len(topSlotColumns)
	}
	return len(topJobColumns)
}

// rows is the table of the view, its header first.
func (m topModel) rows() []string {
	if m.view == viewDevices {
		return topTable(m, m.data.slots, topSlotColumns)
	}
	return topTable(m, m.data.jobs, topJobColumns)
}

// topTable sorts, filters and aligns.
func topTable[T any](m topModel, rows []T, columns []column[T]) []string {
	header := make([]string, len(columns))
	for i, col := range columns {
		header[i] = col.name
	}
	if m.sort > 0 {
		header[m.sort-1] += "^"
	}
	var lines [][]string
	for _, row := range rows {
		line := make([]string, len(columns))
		for i, col := range columns {
			line[i] = oneLine(col.text(row))
		}
		if m.filter == "" || strings.Contains(strings.ToLower(strings.Join(line, " ")), strings.ToLower(m.filter)) {
			lines = append(lines, line)
		}
	}
	if m.sort > 0 {
		slices.SortStableFunc(lines, func(a, b []string) int { return byField(a[m.sort-1], b[m.sort-1]) })
	}
	if m.reverse {
		slices.Reverse(lines)
	}
	var out strings.Builder
	align(&out, append([][]string{header}, lines...), columns)
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

// byField compares numbers by size and all else as text.
func byField(a, b string) int {
	var x, y float64
	_, err1 := fmt.Sscanf(a, "%g", &x)
	_, err2 := fmt.Sscanf(b, "%g", &y)
	if err1 == nil && err2 == nil {
		return cmp.Compare(x, y)
	}
	return cmp.Compare(a, b)
}
