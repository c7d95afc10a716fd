package plan_test

import (
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"pipefill"
	"pipefill/controller/plan"
)

// A device idles at a moment if one of its bubbles covers it, on the circle.
func idle(c pipefill.BubbleCycle, at int64) int {
	for i, b := range c.Bubbles {
		if b.Kind == "other" || b.Kind == "comm" {
			continue
		}
		for _, shift := range []int64{0, c.IterationNs} {
			if at+shift >= b.StartNs && at+shift < b.StartNs+b.DurationNs {
				return i
			}
		}
	}
	return -1
}

// Common time is counted nanosecond by nanosecond.
func TestCoincide_CountsEveryNanosecond(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cycles := []pipefill.BubbleCycle{drawTight(t), drawTight(t)}
		got, members, err := plan.Coincide(cycles)
		if err != nil {
			t.Fatal(err)
		}
		count := int64(0)
		for at := range cycles[0].IterationNs {
			if idle(cycles[0], at) >= 0 && idle(cycles[1], at) >= 0 {
				count++
			}
		}
		for i, b := range got.Bubbles {
			count -= b.DurationNs
			least := int64(1 << 60)
			for d, index := range members[i] {
				for _, x := range cycles[d].Bubbles {
					if x.Index == index {
						least = min(least, x.FreeBytes)
					}
				}
			}
			if least != b.FreeBytes {
				t.Fatalf("%+v has the memory of none of %v", b, members[i])
			}
		}
		if count != 0 {
			t.Fatalf("%d ns are missing or too many in %+v of %+v", count, got, cycles)
		}
	})
}

// drawTight draws bubbles of which the last may wrap around the mark.
func drawTight(t *rapid.T) pipefill.BubbleCycle {
	c := pipefill.BubbleCycle{IterationNs: 60}
	at := rapid.Int64Range(3, 10).Draw(t, "begin")
	first := at
	for i := range rapid.IntRange(1, 4).Draw(t, "bubbles") {
		b := pipefill.Bubble{Index: i, Kind: "steady", StartNs: at, DurationNs: rapid.Int64Range(0, 14).Draw(t, "d"), FreeBytes: rapid.Int64Range(1, 9).Draw(t, "free")}
		b.DurationNs = min(b.DurationNs, first+60-at)
		c.Bubbles = append(c.Bubbles, b)
		at += b.DurationNs + rapid.Int64Range(1, 8).Draw(t, "gap")
		if at >= 60 {
			break
		}
	}
	return c
}

func TestGang(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cycles := []pipefill.BubbleCycle{drawTight(t), drawTight(t)}
		p := drawProfile(t, "job", false)
		got, err := plan.Gang(cycles, p, plan.Options{})
		if err != nil {
			if pipefill.ErrorCode(err) != pipefill.CodeConflict {
				t.Fatal(err)
			}
			return
		}
		perDevice := [2]int{}
		for i, k := range got.Chunks {
			perDevice[k.Device]++
			if k.Device != i%2 {
				t.Fatalf("chunk %d is of device %d", i, k.Device)
			}
		}
		if perDevice[0] != perDevice[1] {
			t.Fatal(perDevice)
		}
		joint, _, err := plan.Coincide(cycles)
		if err != nil {
			t.Fatal(err)
		}
		samples := int64(0)
		for _, k := range got.Chunks {
			if k.Device == 0 {
				samples += int64((k.FirstOp+k.OpCount)/len(p.Configs[k.Config].Ops)) * p.Configs[k.Config].BatchSize
			}
		}
		if have := big.NewRat(samples, int64(got.PeriodCycles)); have.Cmp(best(p, joint)) < 0 {
			t.Fatalf("%s samples a cycle, a single configuration has %s", have, best(p, joint))
		}
	})
}

func TestCoincide_OtherIterations(t *testing.T) {
	_, _, err := plan.Coincide([]pipefill.BubbleCycle{{IterationNs: 100e6}, {IterationNs: 120e6}})
	want := "a gang's devices keep step, and device 1 has an iteration of 120.000 ms where others have 100.000 ms: choose devices of one main job"
	if err == nil || cmp.Diff(want, err.Error()) != "" || pipefill.ErrorCode(err) != pipefill.CodeConflict {
		t.Error(err)
	}
}
