package schedule

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// Every name of the language is documented with its unit, and every shipped policy
// as it is.
func TestDocs(t *testing.T) {
	data, err := os.ReadFile("../../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	for _, a := range Attributes {
		if line := fmt.Sprintf("| `%s` | %s | %s | %s |", a.Name, a.Type, a.Unit, a.Text); !strings.Contains(page, line) {
			t.Errorf("docs/policies.md lacks the line %s", line)
		}
	}
	for _, f := range Functions() {
		if line := fmt.Sprintf("| `%s` | %s |", f[0], f[1]); !strings.Contains(page, line) {
			t.Errorf("docs/policies.md lacks the line %s", line)
		}
	}
	for name, p := range Builtin() {
		if text := "`" + name + "`:\n\n    " + strings.ReplaceAll(strings.TrimSpace(p.Source), "\n", "\n    ") + "\n"; !strings.Contains(page, text) {
			t.Errorf("docs/policies.md shows another policy %s", name)
		}
		if p.Text == "" {
			t.Errorf("%s: policy list would say nothing of it", name)
		}
	}
}

// The struct that policies are checked against has the names of Attributes, with
// their types.
func TestAttributes_AreTheStructs(t *testing.T) {
	types := map[string]string{}
	for of, kind := range map[string]reflect.Type{"job": reflect.TypeFor[JobAttributes](), "slot": reflect.TypeFor[SlotAttributes]()} {
		for f := range kind.Fields() {
			types[of+"."+f.Tag.Get("expr")] = map[string]string{"float64": "number", "bool": "bool", "string": "string"}[f.Type.String()]
		}
	}
	for _, a := range Attributes {
		if types[a.Name] != a.Type {
			t.Errorf("%s is a %s, in the struct a %q", a.Name, a.Type, types[a.Name])
		}
		delete(types, a.Name)
	}
	for name := range types {
		t.Errorf("%s is only in the struct", name)
	}
}
