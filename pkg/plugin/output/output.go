// Package output prints lists as kubectl does: as a table, as JSON, as YAML, or as names.
package output

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"
)

// The formats of -o.
const (
	Table = ""
	Wide  = "wide"
	JSON  = "json"
	YAML  = "yaml"
	Name  = "name"
)

// Formats are the formats, as people may write them.
var Formats = []string{JSON, YAML, Wide, Name}

// Check says whether there is a format of that name.
func Check(format string) error {
	if format == Table || slices.Contains(Formats, format) {
		return nil
	}
	return fmt.Errorf("-o %s: want one of %s", format, strings.Join(Formats, ", "))
}

// List is what a command prints.
type List struct {
	// Kind names the list in JSON: PoolList.
	Kind    string
	Columns []Column
	Rows    []Row
	// None is what the table says instead when there are no rows.
	None string
}

// Column is a column of a table.
type Column struct {
	Name string
	Wide bool // only with -o wide
}

// Row is a row of a list.
type Row struct {
	// Name is what -o name prints: resource/name.
	Name string
	// Cells are as many as there are columns.
	Cells []any
	// Item is what JSON and YAML have.
	Item any
}

// document is a list in JSON.
type document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Items      []any  `json:"items"`
}

// apiVersion is that of the lists of this plugin. They are objects of no API server.
const apiVersion = "kubectl.hostpath.csi.local/v1"

// Print prints a list in a format. out is for the list, and hints for what is no part of it.
func Print(out, hints io.Writer, format string, l List) error {
	switch format {
	case JSON, YAML:
		return printDocument(out, format, l)
	case Name:
		for _, row := range l.Rows {
			fmt.Fprintln(out, Escape(row.Name))
		}
		return nil
	}
	if len(l.Rows) == 0 {
		fmt.Fprintln(hints, l.None)
		return nil
	}
	return printTable(out, format == Wide, l)
}

func printDocument(out io.Writer, format string, l List) error {
	items := make([]any, 0, len(l.Rows))
	for _, row := range l.Rows {
		items = append(items, row.Item)
	}
	text, err := json.MarshalIndent(document{apiVersion, l.Kind, items}, "", "    ")
	if err == nil && format == YAML {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(out, strings.TrimSuffix(string(text), "\n"))
	return nil
}

// printTable prints with kubectl's own printer.
func printTable(out io.Writer, wide bool, l List) error {
	table := &metav1.Table{}
	for _, c := range l.Columns {
		definition := metav1.TableColumnDefinition{Name: c.Name, Type: "string"}
		if c.Wide {
			definition.Priority = 1
		}
		table.ColumnDefinitions = append(table.ColumnDefinitions, definition)
	}
	for _, row := range l.Rows {
		table.Rows = append(table.Rows, metav1.TableRow{Cells: row.Cells})
	}
	return printers.NewTablePrinter(printers.PrintOptions{Wide: wide}).PrintObj(table, out)
}

// Changed is the list with only the rows that are not as they were before, as kubectl --watch
// prints them.
func (l List) Changed(before List) List {
	was := map[string]string{}
	for _, row := range before.Rows {
		was[row.key()] = fmt.Sprint(row.Cells)
	}
	l.Rows = slices.DeleteFunc(slices.Clone(l.Rows), func(row Row) bool {
		cells, ok := was[row.key()]
		return ok && cells == fmt.Sprint(row.Cells)
	})
	return l
}

// key tells a row from the others: rows of two namespaces may have the same name.
func (r Row) key() string {
	if len(r.Cells) == 0 {
		return r.Name
	}
	return fmt.Sprint(r.Name, " ", r.Cells[0])
}
