package chart

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

// Page is a report of sections. It needs no network, no script and no other
// file.
type Page struct {
	Title    string
	About    string // a line below the title
	Warnings []string
	Sections []Section
}

// Section is a heading with a text, a picture and a table, each of which may be
// left out.
type Section struct {
	Heading string
	Text    string
	Picture template.HTML
	Table   *Table
}

// Table is one of texts; columns named in Right are numbers.
type Table struct {
	Header []string
	Right  []bool
	Rows   [][]string
}

// IsRight tells whether a column is one of numbers.
func (t Table) IsRight(i int) bool { return i < len(t.Right) && t.Right[i] }

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// Write writes the page.
func (p Page) Write(w io.Writer) error {
	if err := page.Execute(w, p); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}
