package plan_test

import (
	"testing"

	"pipefill"
	"pipefill/controller/plan"
	"pipefill/test/plancase"
)

func BenchmarkSingle(b *testing.B) {
	type one struct {
		p plan.Profile
		c pipefill.BubbleCycle
	}
	var cases []one
	for seed := range uint64(10) {
		p, c := plancase.Random(seed, 2000, 50, 32)
		cases = append(cases, one{p, c})
	}
	i := 0
	for b.Loop() {
		x := cases[i%len(cases)]
		i++
		if _, err := plan.Single(x.p, x.c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMake(b *testing.B) {
	type one struct {
		p plan.Profile
		c pipefill.BubbleCycle
	}
	var cases []one
	for seed := range uint64(10) {
		p, c := plancase.Random(seed, 2000, 50, 32)
		cases = append(cases, one{p, c})
	}
	i := 0
	for b.Loop() {
		x := cases[i%len(cases)]
		i++
		if _, err := plan.Make(x.c, []plan.Profile{x.p}, plan.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
