package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"pipefill"
)

// maxFile bounds what is read: 2,000 ops x 50 configurations are 9 MB.
const maxFile = 64 << 20

// node is a value of a JSON file, and the line on which it begins, or ends if it is no object or list.
type node struct {
	line   int
	kind   byte // { [ s n b 0
	text   string
	list   []*node
	fields []field
}

type field struct {
	key   string
	value *node
}

// decoder reads a tree strictly; the first mistake stays in err.
type decoder struct {
	name string
	what string
	err  error
}

// fail notes a mistake at n, if it is the first.
func (d *decoder) fail(n *node, format string, args ...any) {
	if d.err != nil {
		return
	}
	where := d.name
	if n != nil {
		where = fmt.Sprintf("%s: line %d", d.name, n.line)
	}
	d.err = pipefill.Errorf(pipefill.CodeInvalid, "%s: %s", where, fmt.Sprintf(format, args...))
}

// parse reads one JSON value and nothing behind it.
func parse(r io.Reader, name, what string) (*decoder, *node, error) {
	d := &decoder{name: name, what: what}
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, nil, pipefill.Errorf(pipefill.CodeInvalid, "%s: %w", name, err)
	}
	if len(data) > maxFile {
		d.fail(nil, "is longer than %d MiB: %s is shorter", maxFile>>20, what)
		return nil, nil, d.err
	}
	p := &parser{data: data, line: 1, json: json.NewDecoder(bytes.NewReader(data))}
	p.json.UseNumber()
	root, err := p.value(0)
	if err == nil {
		if _, more := p.json.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more behind its end")
		}
	}
	if err != nil {
		text := err.Error()
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			p.advance(syntax.Offset)
		} else {
			p.advance(p.json.InputOffset())
		}
		switch {
		case len(bytes.TrimSpace(data)) == 0:
			text = "it is empty"
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			text = "it ends too early"
		}
		d.fail(&node{line: p.line}, "%s: %s is one object of JSON", text, what)
		return nil, nil, d.err
	}
	return d, root, nil
}

// parser makes the tree, and counts lines.
type parser struct {
	data   []byte
	json   *json.Decoder
	line   int
	offset int64
}

// advance moves on to an offset of the file.
func (p *parser) advance(to int64) {
	to = min(to, int64(len(p.data)))
	if to > p.offset {
		p.line += bytes.Count(p.data[p.offset:to], []byte{'\n'})
		p.offset = to
	}
}

// maxDepth is far beyond what a format has.
const maxDepth = 16

func (p *parser) value(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	token, err := p.json.Token()
	if err != nil {
		return nil, err
	}
	p.advance(p.json.InputOffset())
	n := &node{line: p.line}
	switch t := token.(type) {
	case json.Delim:
		n.kind = string(t)[0]
		return n, p.members(n, depth)
	case string:
		n.kind, n.text = 's', t
	case json.Number:
		n.kind, n.text = 'n', t.String()
	case bool:
		n.kind, n.text = 'b', strconv.FormatBool(t)
	default:
		n.kind, n.text = '0', "null"
	}
	return n, nil
}

// members reads what is within braces or brackets, and their end.
func (p *parser) members(n *node, depth int) error {
	for p.json.More() {
		var key string
		if n.kind == '{' {
			token, err := p.json.Token()
			if err != nil {
				return err
			}
			key, _ = token.(string) // the library accepts no other
			if slices.ContainsFunc(n.fields, func(f field) bool { return f.key == key }) {
				return fmt.Errorf("the field %q comes twice", key)
			}
		}
		value, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		if n.kind == '{' {
			n.fields = append(n.fields, field{key, value})
		} else {
			n.list = append(n.list, value)
		}
	}
	_, err := p.json.Token()
	return err
}

// show is a value as a message quotes it.
func (n *node) show() string {
	switch {
	case n == nil:
		return "missing"
	case n.kind == '{':
		return "an object"
	case n.kind == '[' && len(n.list) == 0:
		return "empty"
	case n.kind == '[':
		return "a list"
	case n.kind == 's':
		return strconv.Quote(short(n.text))
	}
	return short(n.text)
}

func short(text string) string {
	if r := []rune(text); len(r) > 40 {
		return string(r[:40]) + "..."
	}
	return text
}

// version is looked at before anything else: a newer file has other fields.
func (d *decoder) version(root *node) {
	if root.kind != '{' {
		return // object says so
	}
	i := slices.IndexFunc(root.fields, func(f field) bool { return f.key == "version" })
	if i < 0 {
		d.fail(root, `"version" is missing: write "version": %d`, Version)
		return
	}
	if v := root.fields[i].value; v.kind != 'n' || v.text != strconv.Itoa(Version) {
		d.fail(v, "version is %s, and this pipefill reads %d: use a pipefill that knows it, or write the file anew", v.show(), Version)
	}
}

// object returns the fields of an object with just those keys.
func (d *decoder) object(n *node, where string, needed, optional []string) map[string]*node {
	out := map[string]*node{}
	if d.err != nil {
		return out
	}
	if n.kind != '{' {
		d.fail(n, "%s is %s: it must be an object", where, n.show())
		return out
	}
	for _, f := range n.fields {
		if !slices.Contains(needed, f.key) && !slices.Contains(optional, f.key) {
			d.fail(f.value, "%s: unknown field %q; valid are %s", where, short(f.key), strings.Join(append(slices.Clone(needed), optional...), ", "))
			return out
		}
		out[f.key] = f.value
	}
	for _, key := range needed {
		if out[key] == nil {
			d.fail(n, "%s: %q is missing", where, key)
		}
	}
	return out
}

// list returns the members of a list that has some.
func (d *decoder) list(n *node, where string) []*node {
	if d.err == nil && (n.kind != '[' || len(n.list) == 0) {
		d.fail(n, "%s is %s: it must be a list of one or more", where, n.show())
	}
	if d.err != nil {
		return nil
	}
	return n.list
}

// whole returns a whole number from least to largest.
func (d *decoder) whole(n *node, where string, least, largest int64) int64 {
	if d.err != nil {
		return least
	}
	value, err := strconv.ParseInt(n.text, 10, 64)
	if n.kind != 'n' || err != nil || value < least || value > largest {
		d.fail(n, "%s is %s: it must be a whole number from %d to %d", where, n.show(), least, largest)
		return least
	}
	return value
}

// optional is whole, 0 where there is none.
func (d *decoder) optional(n *node, where string, least, largest int64) int64 {
	if n == nil {
		return 0
	}
	return d.whole(n, where, least, largest)
}

// word returns a string, one of allowed if there are any.
func (d *decoder) word(n *node, where string, allowed []string) string {
	if d.err != nil {
		return ""
	}
	if n.kind != 's' || allowed != nil && !slices.Contains(allowed, n.text) {
		rule := "text"
		if allowed != nil {
			rule = "one of " + strings.Join(allowed, ", ")
		}
		d.fail(n, "%s is %s: it must be %s", where, n.show(), rule)
		return ""
	}
	return n.text
}

// number returns a finite number that is not negative.
func (d *decoder) number(n *node, where string) float64 {
	if d.err != nil {
		return 0
	}
	value, err := strconv.ParseFloat(n.text, 64)
	if n.kind != 'n' || err != nil || value < 0 {
		d.fail(n, "%s is %s: it must be a number, 0 or more", where, n.show())
		return 0
	}
	return value
}

func (d *decoder) truth(n *node, where string) bool {
	if d.err != nil {
		return false
	}
	if n.kind != 'b' {
		d.fail(n, "%s is %s: it must be true or false", where, n.show())
	}
	return n.text == "true"
}
