package ui

import (
	"io"
	"strings"
	"unicode/utf8"
)

// Table lays cells out in columns.
type Table struct {
	rows [][]string
}

// NewTable makes a table with its head; one without is a list of pairs.
func NewTable(head ...string) *Table {
	t := &Table{}
	if len(head) > 0 {
		t.Row(head...)
	}
	return t
}

// Row adds a row. Cells are cleaned.
func (t *Table) Row(cells ...string) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		row[i] = Clean(cell)
	}
	t.rows = append(t.rows, row)
}

// gap stands between two columns.
const gap = "  "

// Write writes the rows, without spaces at their ends.
func (t *Table) Write(w io.Writer) error {
	widths := t.widths()
	var text strings.Builder
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)))
			line.WriteString(gap)
		}
		text.WriteString(strings.TrimRight(line.String(), " "))
		text.WriteByte('\n')
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func (t *Table) widths() []int {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}
