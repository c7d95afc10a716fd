package plan

import (
	"encoding/json"
	"errors"
	"testing"

	"pipefill"
)

func handedProfile(ops int, live int64) Profile {
	p := Profile{Version: Version, Name: "bert", Kind: Inference, Device: "cpu"}
	for i := range 2 {
		c := Config{BatchSize: int64(4 << i), Technique: Technique{Offload: "none"}}
		for range ops {
			c.Ops = append(c.Ops, Op{Name: "encoder.layer.attention.output.dense", TimeNs: int64(1_000_003 << i), PeakBytes: 1, LiveBytes: live})
		}
		p.Configs = append(p.Configs, c)
	}
	return p
}

func handedCycle() pipefill.BubbleCycle {
	return pipefill.BubbleCycle{Version: Version, IterationNs: 100e6, Bubbles: []pipefill.Bubble{
		{Index: 2, Kind: "fwd-bwd", StartNs: 10e6, DurationNs: 20e6, FreeBytes: 1 << 30},
		{Index: 5, Kind: "fill-drain", StartNs: 60e6, DurationNs: 9e6, FreeBytes: 1 << 30},
	}}
}

// What is handed over holds the plan's chunks and just the configurations that
// they are of; its name is that of its content.
func TestHand_HoldsWhatTheChunksAreOf(t *testing.T) {
	p, c := handedProfile(7, 0), handedCycle()
	r, err := Replan(c, []Profile{p}, []Position{{Job: "bert", Config: 0, Op: 3}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, text, err := Hand(c, p, r)
	if err != nil {
		t.Fatal(err)
	}
	var back Handed
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Chunks) != len(r.Plan.Chunks) || len(back.LeadIn) != len(r.LeadIn) || len(r.LeadIn) == 0 || back.LeadCycles != r.LeadCycles {
		t.Fatalf("%d chunks and %d before of %d and %d", len(back.Chunks), len(back.LeadIn), len(r.Plan.Chunks), len(r.LeadIn))
	}
	if k := r.LeadIn[0]; back.LeadIn[0] != (HandedChunk{k.Cycle, k.Bubble, 0, 3, k.OpCount}) {
		t.Errorf("%v of %+v", back.LeadIn[0], k)
	}
	have := map[int]bool{}
	for _, config := range back.Configs {
		have[config.Index] = true
		if len(config.Ops) != 7 || config.BatchSize != p.Configs[config.Index].BatchSize {
			t.Errorf("%+v", config)
		}
	}
	for _, k := range append(back.LeadIn, back.Chunks...) {
		if !have[k[2]] {
			t.Errorf("chunk %v is of a configuration that is not there", k)
		}
	}
	_, again, err := Hand(c, p, r)
	if err != nil || HandedID(again) != HandedID(text) || HandedID(text) == 0 || HandedID(text) >= 1<<53 {
		t.Errorf("ids %d and %d, %v", HandedID(text), HandedID(again), err)
	}
	c.IterationNs++
	if _, other, _ := Hand(c, p, r); HandedID(other) == HandedID(text) {
		t.Error("another plan has the same name")
	}
}

// A plan that is too long is cut to what says the same, and refused where there
// is no such thing.
func TestHand_Bounded(t *testing.T) {
	c := handedCycle()
	for _, ops := range []int{3001, 9000} {
		p := handedProfile(ops, 0)
		made, err := Make(c, []Profile{p}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		h, text, err := Hand(c, p, Revision{Plan: made})
		if limit := new(pipefill.Error); errors.As(err, &limit) {
			if ops < 9000 || limit.Code != pipefill.CodeConflict {
				t.Errorf("%d ops: %v", ops, err)
			}
			continue
		}
		if err != nil || len(text) > HandedMost || len(h.Configs) != 1 {
			t.Errorf("%d ops: %d bytes, %d configurations, %d chunks, %v", ops, len(text), len(h.Configs), len(h.Chunks), err)
		}
	}
	p := handedProfile(15000, 1)
	made, err := Single(p, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Hand(c, p, Revision{Plan: made}); pipefill.ErrorCode(err) != pipefill.CodeConflict {
		t.Errorf("a plan whose cuts matter was cut: %v", err)
	}
}

// What a swapped configuration leaves on the device must fit there.
func TestSingle_WhatIsNeverMovedMustFit(t *testing.T) {
	p, c := handedProfile(2, 0), handedCycle()
	c.AlwaysFreeBytes = 100
	for i := range p.Configs {
		p.Configs[i].ResidentBytes, p.Configs[i].SwapInNs, p.Configs[i].StaysBytes = 500, 1, 100
	}
	if _, err := Single(p, c); err != nil {
		t.Error(err)
	}
	for i := range p.Configs {
		p.Configs[i].StaysBytes = 101
	}
	_, err := Single(p, c)
	limit := new(Limit)
	if !errors.As(err, &limit) || limit.Kind != LimitAlwaysFree || limit.Need != 101 || limit.Have != 100 {
		t.Errorf("%v", err)
	}
}
