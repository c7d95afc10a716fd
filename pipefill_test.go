package pipefill

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestError_EveryCodeHasItsOwnStatuses(t *testing.T) {
	https, exits := map[int]Code{}, map[int]Code{}
	for _, code := range Codes {
		h, e := HTTPStatus(code), ExitStatus(&Error{Code: code})
		if other, ok := https[h]; ok {
			t.Errorf("HTTP status %d serves %s and %s", h, other, code)
		}
		if other, ok := exits[e]; ok || e == 0 {
			t.Errorf("exit status %d serves %q and %s", e, other, code)
		}
		https[h], exits[e] = code, code
		if got := CodeOfHTTP(h); got != code {
			t.Errorf("CodeOfHTTP(%d) = %s, want %s", h, got, code)
		}
	}
	if len(httpStatus) != len(Codes) || len(exitStatus) != len(Codes) {
		t.Errorf("%d codes, %d HTTP statuses, %d exit statuses", len(Codes), len(httpStatus), len(exitStatus))
	}
}

func TestError_ForeignErrorsAreInternal(t *testing.T) {
	if got := ExitStatus(errors.New("boom")); got != 1 {
		t.Errorf("ExitStatus(foreign) = %d, want 1", got)
	}
	if got := ExitStatus(nil); got != 0 {
		t.Errorf("ExitStatus(nil) = %d, want 0", got)
	}
}

func TestErrorf_KeepsTheCause(t *testing.T) {
	err := fmt.Errorf("read plan: %w", Errorf(CodeNotFound, "no such file: %w", fs.ErrNotExist))
	if ErrorCode(err) != CodeNotFound || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("code %s, is ErrNotExist %t", ErrorCode(err), errors.Is(err, fs.ErrNotExist))
	}
}

func TestParseCores(t *testing.T) {
	for list, want := range map[string][]int{"0": {0}, "0-3,8": {0, 1, 2, 3, 8}, "1,3-4": {1, 3, 4}} {
		got, err := ParseCores(list)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("ParseCores(%q) = %v, %v, want %v", list, got, err, want)
		}
		if back := FormatCores(got); back != list {
			t.Errorf("FormatCores(%v) = %q, want %q", got, back, list)
		}
	}
	for _, list := range []string{"", "a", "3-1", "-1", "0,0", "1,0", "0-99999", "0,", "0-2,1", " 1"} {
		if got, err := ParseCores(list); err == nil {
			t.Errorf("ParseCores(%q) = %v, want an error", list, got)
		}
	}
}

func FuzzParseCores(f *testing.F) {
	f.Add("0-3,8")
	f.Fuzz(func(t *testing.T, list string) {
		cores, err := ParseCores(list)
		if err != nil {
			return
		}
		again, err := ParseCores(FormatCores(cores))
		if diff := cmp.Diff(cores, again); err != nil || diff != "" {
			t.Errorf("%q: %v %s", list, err, diff)
		}
	})
}

func TestDeviceID_Validate(t *testing.T) {
	for _, d := range []DeviceID{"cpu:0", "cpu:0-3", "gpu:GPU-3f8a"} {
		if err := d.Validate(); err != nil {
			t.Errorf("%q: %v", d, err)
		}
	}
	for _, d := range []DeviceID{"", "cpu", "cpu:", "gpu:", "gpu:a/b", "tpu:0", "cpu:../x"} {
		if err := d.Validate(); ErrorCode(err) != CodeInvalid {
			t.Errorf("%q: %v, want an invalid error", d, err)
		}
	}
}

func TestAssignmentState_OnlyForward(t *testing.T) {
	order := []AssignmentState{AssignmentReserved, AssignmentReleased, AssignmentAttached, AssignmentRunning, AssignmentEnded}
	for i, from := range order {
		for j, to := range order {
			if got := from.CanFollow(to); got != (j >= i) {
				t.Errorf("%s -> %s: %t", from, to, got)
			}
		}
	}
	if AssignmentReserved.CanFollow("bogus") || AssignmentState("bogus").CanFollow(AssignmentEnded) {
		t.Error("an unknown state may follow or be followed")
	}
}

func TestBubbleKind_OffersOnlyPipelineWaits(t *testing.T) {
	for kind, offered := range map[BubbleKind]bool{BubbleFillDrain: true, BubbleFwdBwd: true, BubbleSteady: true, BubbleComm: false, BubbleOther: false, 99: false} {
		if kind.Offered() != offered {
			t.Errorf("%s offered: %t", kind, kind.Offered())
		}
	}
}

func TestVersion_IsOneWord(t *testing.T) {
	if v := Version(); v == "" || len(v) > 40 {
		t.Errorf("VERSION is %q", v)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"2GiB": 2 << 30, "0KiB": 0, "1.5MiB": 3 << 19, "1TiB": 1 << 40, "": -1, "GiB": -1, "2": -1, "2GB": -1, "-1GiB": -1, "+1GiB": -1,
		"1e3GiB": -1, "NaNGiB": -1, "InfGiB": -1, "0x1GiB": -1, "9999999TiB": -1, "1_0KiB": -1,
	} {
		got, err := ParseSize(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
