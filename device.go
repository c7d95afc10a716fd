package pipefill

import (
	"fmt"
	"strconv"
	"strings"
)

// DeviceKind says what a device is made of.
type DeviceKind string

// The kinds of device.
const (
	KindCPU DeviceKind = "cpu" // a set of CPU cores, "cpu:0-3,8"
	KindGPU DeviceKind = "gpu" // one GPU, "gpu:GPU-<uuid>"
)

// DeviceID names a device of one node: "cpu:<core list>" or "gpu:<uuid>".
type DeviceID string

// DeviceSet names several devices of one node, parted by blanks.
type DeviceSet string

// DevicesOf writes devices as a set, in their order.
func DevicesOf(devices []DeviceID) DeviceSet {
	names := make([]string, len(devices))
	for i, d := range devices {
		names[i] = string(d)
	}
	return DeviceSet(strings.Join(names, " "))
}

// List returns the devices of a set in their order.
func (s DeviceSet) List() []DeviceID {
	var devices []DeviceID
	for name := range strings.FieldsSeq(string(s)) {
		devices = append(devices, DeviceID(name))
	}
	return devices
}

// Kind returns the part before the colon.
func (d DeviceID) Kind() DeviceKind {
	kind, _, _ := strings.Cut(string(d), ":")
	return DeviceKind(kind)
}

// Cores returns the cores of a cpu device in rising order.
func (d DeviceID) Cores() ([]int, error) {
	kind, list, _ := strings.Cut(string(d), ":")
	if DeviceKind(kind) != KindCPU {
		return nil, Errorf(CodeInvalid, "device %q: not a cpu device, write cpu:<core list>", d)
	}
	return ParseCores(list)
}

// Validate tells whether d has the form of a device.
func (d DeviceID) Validate() error {
	switch d.Kind() {
	case KindCPU:
		_, err := d.Cores()
		return err
	case KindGPU:
		uuid := strings.TrimPrefix(string(d), "gpu:")
		if uuid == "" || strings.ContainsFunc(uuid, func(r rune) bool {
			return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}) {
			return Errorf(CodeInvalid, "device %q: the part after gpu: is a GPU's UUID, as nvidia-smi -L prints it", d)
		}
		return nil
	}
	return Errorf(CodeInvalid, "device %q: write cpu:<core list> or gpu:<uuid>", d)
}

// MaxCore bounds core numbers in lists (the kernel's CONFIG_NR_CPUS maximum).
const MaxCore = 8191

// ParseCores reads a list as the kernel writes it, "0-3,8": rising, no overlap.
func ParseCores(list string) ([]int, error) {
	var cores []int
	for part := range strings.SplitSeq(list, ",") {
		lo, hi, ranged := strings.Cut(part, "-")
		a, err := strconv.Atoi(lo)
		b := a
		if err == nil && ranged {
			b, err = strconv.Atoi(hi)
		}
		if err != nil || a < 0 || b < a || b > MaxCore {
			return nil, Errorf(CodeInvalid, "core list %q: %q is not a core or a range like 0-3 within 0-%d", list, part, MaxCore)
		}
		if n := len(cores); n > 0 && cores[n-1] >= a {
			return nil, Errorf(CodeInvalid, "core list %q: write the cores in rising order, each once", list)
		}
		for c := a; c <= b; c++ {
			cores = append(cores, c)
		}
	}
	return cores, nil
}

// FormatCores writes cores in rising order as the kernel does.
func FormatCores(cores []int) string {
	var parts []string
	for i := 0; i < len(cores); {
		j := i
		for j+1 < len(cores) && cores[j+1] == cores[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, strconv.Itoa(cores[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", cores[i], cores[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}
