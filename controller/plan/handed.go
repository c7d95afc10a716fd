package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"pipefill"
)

// Handed is what a running fill job is given of its plan: the plan's chunks and
// the configurations that they are of, with the cycle that they were made for.
// engine/pipefill/fill/plan.py reads it (docs/plans.md, "handed to the job").
type Handed struct {
	Version          int                  `json:"version"`
	Job              string               `json:"job"`  // the profile's name
	Kind             string               `json:"kind"` // Inference or Training
	SamplesPerSecond float64              `json:"samples_per_second"`
	PeriodCycles     int                  `json:"period_cycles"`
	LeadCycles       int                  `json:"lead_cycles"` // that the way to the period takes, after a re-plan
	Cycle            pipefill.BubbleCycle `json:"cycle"`
	Configs          []HandedConfig       `json:"configs"`
	MainOffload      []MainOffload        `json:"main_offload,omitempty"` // which Cycle counts on
	LeadIn           []HandedChunk        `json:"lead_in"`
	Chunks           []HandedChunk        `json:"chunks"` // empty where a plan is too long: as far as fits in each bubble
}

// HandedConfig is a configuration with its place in the profile.
type HandedConfig struct {
	Index int `json:"index"`
	Config
}

// HandedChunk is cycle, bubble, config, first_op and op_count of a Chunk: a plan
// may have thousands.
type HandedChunk [5]int

// HandedMost bounds what is handed over, in bytes.
const HandedMost = 1 << 20

// Hand makes what a job gets of a revision. One that is too long is cut to what
// says as much: without chunks a job goes as far as fits in each bubble, which
// is the plan of one configuration without live bytes; of a longer mix only the
// best single configuration is handed over. c is as the plan has it: with what
// it moves away (away).
func Hand(c pipefill.BubbleCycle, p Profile, r Revision) (Handed, []byte, error) {
	h := handed(c, p, r)
	text, err := json.Marshal(h)
	if err != nil {
		return Handed{}, nil, fmt.Errorf("hand plan over: %w", err)
	}
	if len(text) <= HandedMost {
		return h, text, nil
	}
	if len(h.Configs) > 1 {
		made, err := Single(p, c)
		if err != nil {
			return Handed{}, nil, err
		}
		made.MainOffload = r.Plan.MainOffload
		return Hand(c, p, Revision{Plan: made})
	}
	h.LeadIn, h.Chunks, h.LeadCycles = []HandedChunk{}, []HandedChunk{}, 0
	if text, err = json.Marshal(h); err != nil {
		return Handed{}, nil, fmt.Errorf("hand plan over: %w", err)
	}
	if len(text) > HandedMost || len(h.Configs) == 1 && h.Configs[0].live() {
		return Handed{}, nil, pipefill.Errorf(pipefill.CodeConflict, "the plan of %q has %d bytes, and a job is handed %d at most: split the model into fewer ops", p.Name, len(text), HandedMost)
	}
	return h, text, nil
}

func handed(c pipefill.BubbleCycle, p Profile, r Revision) Handed {
	h := Handed{
		Version: Version, Job: p.Name, Kind: p.Kind, SamplesPerSecond: r.Plan.SamplesPerSecond, PeriodCycles: r.Plan.PeriodCycles,
		LeadCycles: r.LeadCycles, Cycle: c, MainOffload: r.Plan.MainOffload, LeadIn: short5(r.LeadIn), Chunks: short5(r.Plan.Chunks),
	}
	var used []int
	for _, k := range slices.Concat(h.LeadIn, h.Chunks) {
		if !slices.Contains(used, k[2]) {
			used = append(used, k[2])
		}
	}
	slices.Sort(used)
	for _, i := range used {
		h.Configs = append(h.Configs, HandedConfig{i, p.Configs[i]})
	}
	return h
}

func short5(chunks []Chunk) []HandedChunk {
	out := make([]HandedChunk, len(chunks))
	for i, k := range chunks {
		out[i] = HandedChunk{k.Cycle, k.Bubble, k.Config, k.FirstOp, k.OpCount}
	}
	return out
}

// HandedID names a handed plan by its content: equal ones have the same on
// whatever controller they were made. Never 0, and whole in a JSON number.
func HandedID(text []byte) uint64 {
	sum := sha256.Sum256(text)
	return max(1, binary.LittleEndian.Uint64(sum[:8])>>11)
}
