//go:build install

package install

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var daemons = []struct{ name, config, page string }{
	{"pipefilld", "../../executor/config.go", "../../docs/man/pipefilld.yaml.5.md"},
	{"pipefillctld", "../../controller/config.go", "../../docs/man/pipefillctld.yaml.5.md"},
}

// defaults reads a daemon's keys and their defaults out of its source, as Go writes the values.
func defaults(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	keys, found := map[string]string{}, map[string]string{} // by field; by key
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.TypeSpec:
			record, ok := n.Type.(*ast.StructType)
			if !ok || !strings.EqualFold(n.Name.Name, "config") {
				return false
			}
			for _, field := range record.Fields.List {
				if field.Tag != nil {
					key := reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("yaml")
					keys[field.Names[0].Name], found[key] = key, ""
				}
			}
		case *ast.FuncDecl:
			return n.Name.Name == "defaultConfig"
		case *ast.KeyValueExpr:
			if field, ok := n.Key.(*ast.Ident); ok {
				found[keys[field.Name]] = value(n.Value)
			}
		}
		return true
	})
	if len(found) < 10 || found["log_level"] != "info" {
		t.Fatalf("%s: these are not its keys: %v", path, found)
	}
	return found
}

// names are the constants that stand in the defaults.
var names = map[string]string{"schedIdle": "idle", "schedule.FIFO": "fifo"}

func value(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		v := constant.MakeFromLiteral(e.Value, e.Kind, 0)
		if v.Kind() == constant.String {
			return constant.StringVal(v)
		}
		return v.String()
	case *ast.CompositeLit:
		var list []string
		for _, element := range e.Elts {
			list = append(list, value(element))
		}
		return "[" + strings.Join(list, ", ") + "]"
	case *ast.CallExpr: // a conversion
		return value(e.Args[0])
	}
	text := types.ExprString(e)
	if known, ok := names[text]; ok {
		return known
	}
	return fmt.Sprintf("unknown %s", text)
}

var exampleLine = regexp.MustCompile(`(?m)^(#?)([a-z_]+):[ ]?(.*)$`)

// Every key is in the example, and what is commented out is the default.
func TestExamples_SayTheDefaults(t *testing.T) {
	for _, d := range daemons {
		want := defaults(t, d.config)
		text, err := os.ReadFile("../../packaging/etc/" + d.name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range exampleLine.FindAllStringSubmatch(string(text), -1) {
			key, said := m[2], m[3]
			standard, known := want[key]
			delete(want, key)
			empty := standard == "" && (said == `""` || said == "[]")
			switch {
			case !known:
				t.Errorf("%s.yaml: there is no key %s", d.name, key)
			case m[1] == "#" && said != standard && !empty:
				t.Errorf("%s.yaml: %s: %s is not the default, %q", d.name, key, said, standard)
			}
		}
		if len(want) > 0 {
			t.Errorf("%s.yaml: these keys are missing, with their defaults: %v", d.name, want)
		}
	}
}

var pageKey = regexp.MustCompile(`(?m)^\*\*([a-z_]+)\*\*\n: (?:.*\n)*?.*(?:Default: ([^\n]*)\.|Required\.)$`)

// Every key is in the manual page, with its default.
func TestPages_SayTheDefaults(t *testing.T) {
	for _, d := range daemons {
		want := defaults(t, d.config)
		text, err := os.ReadFile(d.page)
		if err != nil {
			t.Fatal(err)
		}
		said := map[string]string{}
		for _, m := range pageKey.FindAllStringSubmatch(string(text), -1) {
			said[m[1]] = strings.ReplaceAll(m[2], "none", "")
		}
		if diff := cmp.Diff(want, said); diff != "" {
			t.Errorf("%s: keys and defaults (-code +page):\n%s", d.page, diff)
		}
	}
}

// check runs an installed daemon's --check over text.
func check(t *testing.T, dir, daemon, text string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), daemon+".yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "sbin", daemon), "--check", "--config", path).CombinedOutput()
	return string(out), err
}

func TestExamples_PassTheirDaemonsCheck(t *testing.T) {
	dir := t.TempDir()
	script(t, "install", "DESTDIR=", "prefix="+dir, "sysconfdir="+dir+"/etc", "pythondir="+dir+"/python")
	for _, d := range daemons {
		text, err := os.ReadFile(filepath.Join(dir, "etc/pipefill", d.name+".yaml.example"))
		if err != nil {
			t.Fatal(err)
		}
		if out, err := check(t, dir, d.name, string(text)); err != nil {
			t.Errorf("%s: %v: %s", d.name, err, out)
		}
		all := exampleLine.ReplaceAllString(string(text), "$2: $3")
		if out, err := check(t, dir, d.name, all); err != nil {
			t.Errorf("%s, with its defaults written out: %v: %s", d.name, err, out)
		}
		if out, err := check(t, dir, d.name, string(text)+"\nshare_of_all: 1\n"); err == nil || !strings.Contains(out, "share_of_all") {
			t.Errorf("%s takes an unknown key: %v: %s", d.name, err, out)
		}
	}
}

// The pages' roff has no mistake that man would show, and every daemon and command has its page.
func TestPages_HaveNoMistake(t *testing.T) {
	man, err := exec.LookPath("man")
	if err != nil {
		t.Log("man is not on this machine: the roff is looked at, not rendered")
	}
	pages, err := filepath.Glob("../../docs/man/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, page := range pages {
		name := strings.TrimSuffix(filepath.Base(page), ".md")
		found = append(found, name)
		out, err := exec.CommandContext(t.Context(), "../../packaging/man", page).Output()
		if err != nil || !strings.HasPrefix(string(out), ".TH PIPEFILL") || strings.Contains(string(out), "**") || !strings.Contains(string(out), ".SH NAME\n") {
			t.Errorf("%s: %v: %.300s", page, err, out)
		}
		if man == "" {
			continue
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, out, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), man, "--warnings", "-E", "UTF-8", "-l", path)
		cmd.Env = append(os.Environ(), "MANPAGER=cat", "MANROFFSEQ=")
		var said strings.Builder
		cmd.Stderr = &said
		if text, err := cmd.Output(); err != nil || said.Len() > 0 || !strings.Contains(string(text), "NAME") {
			t.Errorf("%s: %v: %s", page, err, said.String())
		}
	}
	for _, name := range []string{"pipefill-cli.1", "pipefill.h.3", "pipefilld.8", "pipefillctld.8", "pipefilld.yaml.5", "pipefillctld.yaml.5"} {
		if !slices.Contains(found, name) {
			t.Errorf("there is no page %s", name)
		}
	}
}
