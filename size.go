package pipefill

import (
	"strconv"
	"strings"
)

var sizeUnits = map[string]float64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

// ParseSize reads a size as --pipefill has it, "2GiB", in bytes: spank/options.c
// read_bytes is the other end.
func ParseSize(text string) (int64, error) {
	if n := len(text) - 3; n > 0 {
		amount, err := strconv.ParseFloat(text[:n], 64)
		unit := sizeUnits[text[n:]]
		if err == nil && unit > 0 && amount >= 0 && amount*unit < 1e18 && !strings.ContainsAny(text[:n], "+-eExXpPnN_") {
			return int64(amount*unit + 0.5), nil
		}
	}
	return 0, Errorf(CodeInvalid, "size %q: write a number with KiB, MiB, GiB or TiB, like 2GiB", text)
}
