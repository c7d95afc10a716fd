package metrics_test

import (
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// Every alert that is shipped is raised where it should be, and none where all
// is well; promtool counts for us.
func TestRules_EachAlert(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skipf("packaging/setup installs it: %v", err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", "testdata/alerts.yaml").CombinedOutput(); err != nil {
		t.Errorf("promtool: %v: %s", err, out)
	}
	names := func(file, key string) map[string]bool {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, m := range regexp.MustCompile(key+`: (\w+)`).FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = true
		}
		return found
	}
	shipped, raised := names("../packaging/prometheus/pipefill.rules.yaml", "alert"), names("testdata/alerts.yaml", "alertname")
	if len(shipped) < 9 {
		t.Errorf("alerts shipped: %v", shipped)
	}
	for name := range shipped {
		if !raised[name] {
			t.Errorf("%s is raised in no test", name)
		}
	}
}
