package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
)

// byteCount is a size in bytes, written in Kubernetes' quantity syntax.
type byteCount int64

// decoder walks a YAML tree by hand. yaml's own decoder stops at the first syntax error, follows
// aliases, guesses types, has Go types in its errors, and forgets the lines that errors of Validate
// need.
type decoder struct {
	file    string
	sources sources
	found   []fault
}

func (d *decoder) failf(line int, format string, args ...any) {
	text := fmt.Sprintf("%s:%d: ", d.file, line) + fmt.Sprintf(format, args...)
	d.found = append(d.found, fault{line, text})
}

// reject reports a node that has the wrong form.
func (d *decoder) reject(field string, n *yaml.Node, want string) {
	src := d.sources[field]
	src.bad = true
	d.sources[field] = src
	what := map[yaml.Kind]string{
		yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.AliasNode: "an alias",
	}[n.Kind]
	switch {
	case what != "":
	case n.ShortTag() == "!!null":
		what = "nothing"
	case n.ShortTag() == "!!str" && isRightUnquoted(n.Value, want):
		what = quote(n.Value) + ", a string: write it without quotes"
	default:
		what = quote(n.Value)
	}
	if field != "" {
		field += ": "
	}
	d.failf(n.Line, "%smust be %s, not %s", field, want, what)
}

// isRightUnquoted says whether a quoted text would be right without its quotes.
func isRightUnquoted(text, want string) bool {
	switch want {
	case scalarTypes[reflect.TypeFor[*bool]()].text:
		return text == "true" || text == "false"
	case scalarTypes[reflect.TypeFor[*int64]()].text:
		return scan(text, new(int64))
	case scalarTypes[reflect.TypeFor[*float64]()].text:
		return scan(text, new(float64))
	}
	return false
}

func (d *decoder) expect(field, got, want string) {
	if d.sources.isBad(field) || got == want {
		return
	}
	if _, ok := d.sources[field]; !ok {
		d.failf(d.sources[""].line, "%s is missing: it must be %s", field, want)
		return
	}
	d.failf(d.sources[field].line, "%s: %s must be %s", field, quote(got), want)
}

// document is the root of the only document in data. It is nil, and reported, when there is none.
func (d *decoder) document(data []byte) *yaml.Node {
	if len(data) > maxConfigBytes {
		d.failf(1, "the file has more than %d bytes", maxConfigBytes)
		return nil
	}
	if !d.text(data) {
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		d.failf(1, "the file is empty: it must have apiVersion: %s, kind: %s", ConfigAPIVersion,
			ConfigKind)
		return nil
	} else if err != nil {
		d.syntax(data, err)
		return nil
	}
	switch err := dec.Decode(&more); {
	case err == nil:
		d.failf(max(more.Line, 1), "a second document begins: the file must have one")
	case !errors.Is(err, io.EOF):
		d.syntax(data, err)
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		d.reject("", root, "a mapping with apiVersion, kind and pools")
		return nil
	}
	return root
}

// text refuses characters that YAML forbids. yaml's own error has no line.
func (d *decoder) text(data []byte) bool {
	line := 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			d.failf(line, "the file must be UTF-8: byte %#02x is not", data[i])
			return false
		case r == '\n':
			line++
		case unicode.IsControl(r) && !strings.ContainsRune("\t\r\u0085", r):
			d.failf(line, "control character %#02x is not allowed", r)
			return false
		}
		i += size
	}
	return true
}

var (
	yamlError = regexp.MustCompile(`(?s)^yaml: (?:line ([0-9]+): )?(.*)$`)
	// unknownAnchor is the only error that is found on a later line and does not have it.
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// yamlAdvice is the most frequent cause of one of yaml's messages.
func yamlAdvice(message string) string {
	switch {
	case message == "found character that cannot start any token":
		return " (a tab? YAML indents with spaces)"
	case strings.HasPrefix(message, "unknown anchor "):
		return " (text that begins with * needs quotes; aliases are not allowed)"
	}
	return ""
}

func (d *decoder) syntax(data []byte, err error) {
	m := yamlError.FindStringSubmatch(err.Error())
	if m == nil {
		d.failf(1, "not YAML: %q", err.Error())
		return
	}
	line := 1 // yaml counts from 0 and leaves out a 0
	if n, err := strconv.Atoi(m[1]); err == nil {
		line = n
	}
	if anchor := unknownAnchor.FindStringSubmatch(m[2]); anchor != nil {
		// its first use that is not in a comment
		use := regexp.MustCompile(`(?m)^[^#\n]*\*` + regexp.QuoteMeta(anchor[1]))
		if at := use.FindIndex(data); at != nil {
			line = 1 + bytes.Count(data[:at[1]], []byte("\n"))
		}
	}
	d.failf(line, "not YAML: %s%s", m[2], yamlAdvice(m[2]))
}

// configField is a key of a mapping, and a pointer to the configuration's field for its value.
type configField struct {
	name string
	to   any
}

// fieldsOf lists the fields of a struct that have a yaml name, in the order of the declaration.
func fieldsOf(structure any) []configField {
	v := reflect.ValueOf(structure).Elem()
	var fields []configField
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		to := v.Field(i).Addr().Interface()
		if size, ok := to.(*int64); ok && tag.Get("unit") == "bytes" {
			to = (*byteCount)(size)
		}
		fields = append(fields, configField{name, to})
	}
	return fields
}

// mapping decodes the mapping n, which is the field at ("" for the root), into its known fields.
func (d *decoder) mapping(at string, n *yaml.Node, known []configField) {
	names := make([]string, len(known))
	targets := map[string]any{}
	for i, field := range known {
		names[i], targets[field.name] = field.name, field.to
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		to := targets[key.Value]
		switch first, seen := lines[key.Value]; {
		case key.Kind != yaml.ScalarNode || to == nil:
			d.failf(key.Line, "%sunknown key %s: known are %s", within(at), quote(key.Value),
				strings.Join(names, ", "))
		case seen:
			d.failf(key.Line, "%s%s is given twice, first on line %d", within(at), key.Value, first)
		default:
			lines[key.Value] = key.Line
			field := strings.TrimPrefix(at+"."+key.Value, ".")
			d.sources[field] = source{file: d.file, line: key.Line}
			d.value(field, value, to)
		}
	}
}

func within(at string) string {
	if at == "" {
		return ""
	}
	return at + ": "
}

// value decodes a node into its target, a pointer.
func (d *decoder) value(field string, n *yaml.Node, to any) {
	switch to := to.(type) {
	case *[]Pool:
		decodeList(d, field, n, to,
			listOf[Pool]{blank: NewPool("", ""), name: "pools", item: "name and path"})
		return
	case *[]HostPath:
		decodeList(d, field, n, to, listOf[HostPath]{name: "host paths", item: "path"})
		return
	case *[]GitSource:
		decodeList(d, field, n, to,
			listOf[GitSource]{blank: NewGitSource(), name: "git sources", item: "urlPrefix and maxSize"})
		return
	case *IOLimits:
		if n.Kind != yaml.MappingNode {
			d.reject(field, n, "a mapping with cgroups")
			return
		}
		d.mapping(field, n, fieldsOf(to))
		return
	case *[]string:
		d.strings(field, n, to)
		return
	}
	want, ok := scalarTypes[reflect.TypeOf(to)], false
	if n.Kind == yaml.ScalarNode && slices.Contains(want.tags, n.ShortTag()) {
		ok = scan(n.Value, to)
	}
	if !ok {
		d.reject(field, n, want.text)
	}
}

// listOf describes a list of mappings: an item with its defaults, and, for messages, the list's
// name and the required fields of an item.
type listOf[T any] struct {
	blank      T
	name, item string
}

func decodeList[T any](d *decoder, field string, n *yaml.Node, to *[]T, what listOf[T]) {
	if n.Kind != yaml.SequenceNode {
		d.reject(field, n, "a list of "+what.name)
		return
	}
	for _, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", field, len(*to))
		d.sources[at] = source{file: d.file, line: item.Line}
		value := what.blank
		if item.Kind == yaml.MappingNode {
			d.mapping(at, item, fieldsOf(&value))
		} else {
			d.reject(at, item, "a mapping with "+what.item)
		}
		*to = append(*to, value)
	}
}

func (d *decoder) strings(field string, n *yaml.Node, to *[]string) {
	if n.Kind != yaml.SequenceNode {
		d.reject(field, n, "a list of strings")
		return
	}
	for _, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", field, len(*to))
		d.sources[at] = source{file: d.file, line: item.Line}
		var text string
		d.value(at, item, &text)
		*to = append(*to, text)
	}
}

// scalarType says which YAML tags a scalar may have, and describes it in messages.
type scalarType struct {
	name string
	tags []string
	text string
}

var scalarTypes = map[reflect.Type]scalarType{
	reflect.TypeFor[*string](): {
		"string",
		[]string{"!!str"},
		"a string (a number or word such as true needs quotes)",
	},
	reflect.TypeFor[*bool]():    {"boolean", []string{"!!bool"}, "true or false"},
	reflect.TypeFor[*float64](): {"number", []string{"!!int", "!!float"}, "a number, such as 1.5"},
	reflect.TypeFor[*int64]():   {"integer", []string{"!!int"}, "a whole number, in decimal digits"},
	reflect.TypeFor[*byteCount](): {
		"quantity",
		[]string{"!!str", "!!int", "!!float"},
		"a size in bytes of 0 to less than 8Ei, such as 10Gi, 500M or 1048576",
	},
	reflect.TypeFor[*time.Duration](): {
		"duration",
		[]string{"!!str", "!!int"},
		"a duration with a unit, such as 90s, 30m or 24h",
	},
}

// scan reads a scalar. It is false when the text has another type.
func scan(text string, to any) bool {
	var err error
	switch to := to.(type) {
	case *string:
		*to = text
	case *bool:
		*to, err = strconv.ParseBool(text)
	case *float64:
		*to, err = strconv.ParseFloat(text, 64)
	case *int64:
		*to, err = strconv.ParseInt(text, 10, 64)
	case *byteCount:
		var n int64
		n, err = quantity.Parse(text)
		*to = byteCount(n)
	case *time.Duration:
		*to, err = time.ParseDuration(text)
	default:
		return false
	}
	return err == nil
}
