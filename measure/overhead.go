package measure

import (
	"math"
	"slices"
)

// Iteration is one iteration of a main job as its first rank saw it.
type Iteration struct {
	Number  int64
	Control bool  // the gate was kept shut for comparison
	Ns      int64 // its length
}

// Estimate is a relative difference with its 95 % interval; 0.01 is 1 %.
type Estimate struct {
	Value, Lo, Hi float64
	Blocks        int // that the interval stands on
}

// Overhead compares iterations with and without fill work. Neighbours are
// alike (a noisy machine drifts), so that iterations are cut into blocks of
// blockLength neighbours, each giving one log-ratio of its filled and its control
// iterations' means; the interval is Student's over blocks, widened for the
// correlation of one block with the next. A block without both sorts joins the
// next one.
func Overhead(iterations []Iteration, blockLength int) (Estimate, bool) {
	var ratios []float64
	var filled, control []float64
	count := 0
	for _, it := range iterations {
		if it.Ns <= 0 {
			continue
		}
		count++
		if it.Control {
			control = append(control, math.Log(float64(it.Ns)))
		} else {
			filled = append(filled, math.Log(float64(it.Ns)))
		}
		if count >= blockLength && len(filled) > 0 && len(control) > 0 {
			ratios = append(ratios, mean(filled)-mean(control))
			filled, control, count = nil, nil, 0
		}
	}
	return Interval95(ratios)
}

// Interval95 is the mean of log-ratios in time order and its interval, as
// relative differences. It needs three of them.
func Interval95(ratios []float64) (Estimate, bool) {
	n := len(ratios)
	if n < 3 {
		return Estimate{}, false
	}
	m := mean(ratios)
	var variance, lagged float64
	for i, r := range ratios {
		variance += (r - m) * (r - m)
		if i > 0 {
			lagged += (r - m) * (ratios[i-1] - m)
		}
	}
	widen := 1.0
	if variance > 0 {
		// An AR(1) sequence holds n(1-r)/(1+r) independent values.
		r := math.Max(0, math.Min(0.9, lagged/variance))
		widen = math.Sqrt((1 + r) / (1 - r))
	}
	half := student95(n-1) * widen * math.Sqrt(variance/float64(n-1)/float64(n))
	return Estimate{Value: math.Expm1(m), Lo: math.Expm1(m - half), Hi: math.Expm1(m + half), Blocks: n}, true
}

// student95 is the two-sided 95 % quantile of Student's distribution: exact
// to four digits where tabulated, Cornish-Fisher's expansion beyond.
func student95(freedom int) float64 {
	table := [...]float64{0, 12.706, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281}
	if freedom < len(table) {
		return table[freedom]
	}
	const z = 1.959964
	v := float64(freedom)
	return z + (z*z*z+z)/(4*v) + (5*math.Pow(z, 5)+16*z*z*z+3*z)/(96*v*v)
}

func mean(values []float64) float64 {
	var sum float64
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// Quantile is the q-quantile (0..1) of values by linear interpolation, NaN of
// none.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}
