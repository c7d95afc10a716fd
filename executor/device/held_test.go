package device

import (
	"os"
	"testing"
)

func TestHeldBy(t *testing.T) {
	null, err := nodeAt("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	full, err := nodeAt("/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if !null.HeldBy(os.Getpid()) {
		t.Error("the node that is open is not found")
	}
	if full.HeldBy(os.Getpid()) {
		t.Error("a node that is not open is found")
	}
	if null.HeldBy(1 << 22) {
		t.Error("a process that does not exist holds something")
	}
}
