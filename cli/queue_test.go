package cli

import (
	"strings"
	"testing"
)

func TestSubmit_OptionsBeforeTheScript(t *testing.T) {
	for text, want := range map[string]string{
		"job.sh": "job.sh", "-J a job.sh -J b": "job.sh", "-Ja job.sh": "job.sh", "--mem 5 --wait job.sh": "job.sh", "--mem=5 job.sh": "job.sh",
		"-o out --pipefill=fill,profile=p job.sh": "job.sh", "-H -W job.sh": "job.sh", "--exclusive job.sh": "job.sh",
		"-o out --wrap=true": "", "-o": "", "-- job.sh -G": "job.sh", "-n1 : -n2 job.sh": "job.sh",
	} {
		args := strings.Fields(text)
		got := ""
		if _, at := optionsBefore(args); at < len(args) {
			got = args[at]
		}
		if got != want {
			t.Errorf("%s: the script is %q, want %q", text, got, want)
		}
	}
	// An option's value is none of ours, and is not taken for the script.
	for _, text := range []string{"-o out -G1 job.sh", "-o out -p x job.sh", "--output out --gres=gpu:1 job.sh", "--gres gpu:1 job.sh", "-J : : job.sh"} {
		if _, err := sbatchArguments(strings.Fields(text), ""); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
	if _, err := sbatchArguments(strings.Fields("-J : job.sh -G1 -p x"), ""); err != nil {
		t.Error(err)
	}
}
