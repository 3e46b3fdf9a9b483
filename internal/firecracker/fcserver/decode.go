package fcserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/internal/firecracker"
)

// decode reads a JSON body into one of the API's bodies as Firecracker does,
// with its texts: unknown and repeated fields are refused, a field without
// omitempty is required, null stands for an absent optional value and for
// nothing else, and numbers must fit. Fields that release [Version] does not
// know yet are unknown. The texts are serde_json's.
//
// given names the fields of the outermost object that were there.
func decode(body []byte, into any) (given map[string]bool, err error) {
	d := &decoder{body: body, json: json.NewDecoder(bytes.NewReader(body))}
	d.json.UseNumber()
	target := reflect.ValueOf(into).Elem()
	given, err = d.object(target)
	if err != nil {
		return nil, err
	}
	return given, d.end()
}

// deserializeError is serde_json's error: its text and where it was noticed.
type deserializeError struct {
	text         string
	line, column int
}

func (e *deserializeError) Error() string {
	return fmt.Sprintf("%s at line %d column %d", e.text, e.line, e.column)
}

type decoder struct {
	body []byte
	json *json.Decoder
}

// fail says text of the place that was read up to; more is how many bytes
// serde_json has seen beyond that.
func (d *decoder) fail(more int, format string, args ...any) error {
	end := min(int(d.json.InputOffset())+more, len(d.body))
	seen := d.body[:end]
	return &deserializeError{
		text:   fmt.Sprintf(format, args...),
		line:   bytes.Count(seen, []byte("\n")) + 1,
		column: end - (bytes.LastIndexByte(seen, '\n') + 1),
	}
}

// gap is the number of bytes before the next token: blanks, commas, colons.
func (d *decoder) gap() int {
	rest := d.body[d.json.InputOffset():]
	return len(rest) - len(bytes.TrimLeft(rest, " \t\r\n,:"))
}

func (d *decoder) token() (json.Token, error) {
	t, err := d.json.Token()
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return t, nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, d.fail(len(d.body), "EOF while parsing an object")
	case errors.As(err, &syntax):
		return nil, d.fail(d.gap()+1, "expected value")
	}
	return nil, d.fail(0, "%v", err)
}

func (d *decoder) end() error {
	if rest := bytes.TrimLeft(d.body[d.json.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return d.fail(d.gap()+1, "trailing characters")
	}
	return nil
}

// object reads a struct. A body whose type is in lenient takes unknown
// fields, as upstream's does.
func (d *decoder) object(into reflect.Value) (map[string]bool, error) {
	opening, err := d.token()
	if err != nil {
		return nil, err
	}
	if opening != json.Delim('{') {
		return nil, d.wrongType(opening, "struct "+into.Type().Name())
	}
	fields := fieldsOf(into.Type())
	given := map[string]bool{}
	for d.json.More() {
		if err := d.member(into, fields, given); err != nil {
			return nil, err
		}
	}
	if _, err := d.token(); err != nil {
		return nil, err
	}
	for _, f := range fields {
		if f.required && !given[f.name] {
			return nil, d.fail(0, "missing field `%s`", f.name)
		}
	}
	return given, nil
}

func (d *decoder) member(into reflect.Value, fields []field, given map[string]bool) error {
	key, err := d.token()
	if err != nil {
		return err
	}
	name, isString := key.(string)
	if !isString {
		return d.fail(0, "key must be a string")
	}
	f, known := find(fields, name)
	if !known && lenient[into.Type()] {
		var skipped json.RawMessage
		if err := d.json.Decode(&skipped); err != nil {
			return d.fail(d.gap()+1, "expected value")
		}
		return nil
	}
	if !known {
		return d.fail(0, "unknown field `%s`, expected %s", name, oneOf(namesOf(fields)))
	}
	if given[name] {
		return d.fail(0, "duplicate field `%s`", name)
	}
	given[name] = true
	return d.value(into.Field(f.index), f)
}

// lenient are the bodies that upstream does not close to unknown fields.
var lenient = map[reflect.Type]bool{
	reflect.TypeFor[firecracker.Metrics]():     true,
	reflect.TypeFor[firecracker.TokenBucket](): true,
	reflect.TypeFor[configFile]():              true,
}

type field struct {
	name     string
	index    int
	required bool
	// optional: null is as good as absent.
	optional bool
	// width is upstream's name of a number's type.
	width string
}

func fieldsOf(t reflect.Type) []field {
	running, _ := firecracker.ParseVersion(Version)
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		if since, _, ok := firecracker.Since(f); ok && !running.AtLeast(since) {
			continue
		}
		required := !strings.Contains(f.Tag.Get("json"), ",omitempty")
		fields = append(fields, field{
			name:     firecracker.JSONName(f),
			index:    i,
			required: required,
			optional: !required && isOption(f.Type),
			width:    widthOf(f),
		})
	}
	return fields
}

func widthOf(f reflect.StructField) string {
	if width, ok := f.Tag.Lookup("width"); ok {
		return width
	}
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return map[reflect.Kind]string{reflect.Uint16: "u16", reflect.Uint32: "u32", reflect.Uint64: "u64"}[t.Kind()]
}

// widths are the bits of upstream's number types.
var widths = map[string]int{"u8": 8, "u16": 16, "u32": 32, "u64": 64, "usize": 63}

// isOption tells upstream's Option fields from those that have a default.
func isOption(t reflect.Type) bool {
	if e, ok := enums[t]; ok {
		return e.optional
	}
	return t.Kind() == reflect.Pointer || t.Kind() == reflect.String
}

func find(fields []field, name string) (field, bool) {
	for _, f := range fields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

func namesOf(fields []field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names
}

// oneOf is serde's list: `a`, `a` or `b`, one of `a`, `b`, `c`.
func oneOf(names []string) string {
	switch len(names) {
	case 1:
		return "`" + names[0] + "`"
	case 2:
		return "`" + names[0] + "` or `" + names[1] + "`"
	}
	return "one of `" + strings.Join(names, "`, `") + "`"
}

func (d *decoder) value(into reflect.Value, f field) error {
	if f.optional && d.null() {
		_, err := d.token()
		return err
	}
	if into.Kind() == reflect.Pointer {
		into.Set(reflect.New(into.Type().Elem()))
		into = into.Elem()
	}
	if e, ok := enums[into.Type()]; ok {
		return d.enum(into, e)
	}
	switch into.Kind() {
	case reflect.Struct:
		_, err := d.object(into)
		return err
	case reflect.Slice:
		return d.slice(into)
	case reflect.Bool:
		return d.boolean(into)
	case reflect.String:
		return d.text(into, f.name)
	}
	if bits, ok := widths[f.width]; ok {
		return d.unsigned(into, f.width, bits)
	}
	panic(fmt.Sprintf("fcserver: no rule for a field of type %s", into.Type()))
}

func (d *decoder) null() bool {
	return bytes.HasPrefix(d.body[int(d.json.InputOffset())+d.gap():], []byte("null"))
}

func (d *decoder) boolean(into reflect.Value) error {
	t, err := d.token()
	if err != nil {
		return err
	}
	b, ok := t.(bool)
	if !ok {
		return d.wrongType(t, "a boolean")
	}
	into.SetBool(b)
	return nil
}

func (d *decoder) unsigned(into reflect.Value, width string, bits int) error {
	t, err := d.token()
	if err != nil {
		return err
	}
	number, ok := t.(json.Number)
	if !ok || strings.ContainsAny(number.String(), ".eE") {
		return d.wrongType(t, width)
	}
	n, err := strconv.ParseUint(number.String(), 10, bits)
	if err != nil {
		return d.fail(0, "invalid value: integer `%s`, expected %s", number, width)
	}
	if into.CanInt() {
		into.SetInt(int64(n))
		return nil
	}
	into.SetUint(n)
	return nil
}

func (d *decoder) slice(into reflect.Value) error {
	t, err := d.token()
	if err != nil {
		return err
	}
	if t != json.Delim('[') {
		return d.wrongType(t, "a sequence")
	}
	into.Set(reflect.MakeSlice(into.Type(), 0, 0))
	for d.json.More() {
		element := reflect.New(into.Type().Elem()).Elem()
		if err := d.value(element, field{}); err != nil {
			return err
		}
		into.Set(reflect.Append(into, element))
	}
	_, err = d.token()
	return err
}

// text reads a string, and where upstream's type is an address, its form.
func (d *decoder) text(into reflect.Value, name string) error {
	t, err := d.token()
	if err != nil {
		return err
	}
	s, ok := t.(string)
	if !ok {
		return d.wrongType(t, "a string")
	}
	if check, ok := addresses[name]; ok {
		if s, err = check(s); err != nil {
			return d.fail(0, "%v", err)
		}
	}
	into.SetString(s)
	return nil
}

// addresses are the string fields that have a form, by name.
var addresses = map[string]func(string) (string, error){
	"guest_mac":    checkMAC,
	"ipv4_address": checkIPv4,
}

// checkMAC takes six pairs of hex digits with colons and returns them in
// lower case.
func checkMAC(s string) (string, error) {
	pairs := strings.Split(s, ":")
	ok := len(pairs) == 6
	for _, pair := range pairs {
		_, err := strconv.ParseUint(pair, 16, 8)
		ok = ok && err == nil && len(pair) == 2
	}
	if !ok {
		return "", errors.New("The provided MAC address is invalid.") //nolint:staticcheck // upstream's text
	}
	return strings.ToLower(s), nil
}

func checkIPv4(s string) (string, error) {
	if addr, err := netip.ParseAddr(s); err != nil || !addr.Is4() {
		return "", errors.New("invalid IPv4 address syntax")
	}
	return s, nil
}

// wrongType names what t is in serde's words.
func (d *decoder) wrongType(t json.Token, expected string) error {
	more := 0
	if _, opens := t.(json.Delim); opens {
		more = -1 // serde_json has not taken the bracket yet
	}
	return d.fail(more, "invalid type: %s, expected %s", describeToken(t), expected)
}

func describeToken(t json.Token) string {
	switch t := t.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprintf("boolean `%t`", t)
	case string:
		return fmt.Sprintf("string %q", t)
	case json.Number:
		if f, err := t.Float64(); strings.ContainsAny(t.String(), ".eE") && err == nil && !math.IsInf(f, 0) {
			return fmt.Sprintf("floating point `%v`", f)
		}
		return fmt.Sprintf("integer `%s`", t)
	case json.Delim:
		if t == '[' {
			return "sequence"
		}
	}
	return "map"
}

// enum is a string field with a list of values.
type enum struct {
	values   []string
	optional bool
	// free is set for the one list that upstream reads itself, in any case
	// of letters; refusal is then its text.
	free    bool
	refusal string
}

var enums = map[reflect.Type]enum{
	reflect.TypeFor[firecracker.CPUTemplate](): {values: []string{"C3", "T2", "T2S", "None", "T2CL", "T2A"}, optional: true},
	reflect.TypeFor[firecracker.HugePages]():   {values: []string{"None", "2M"}},
	reflect.TypeFor[firecracker.CacheType]():   {values: []string{"Unsafe", "Writeback"}},
	reflect.TypeFor[firecracker.IOEngine]():    {values: []string{"Async", "Sync"}, optional: true},
	reflect.TypeFor[firecracker.MMDSVersion](): {values: []string{"V1", "V2"}},
	reflect.TypeFor[firecracker.ActionType]():  {values: []string{"FlushMetrics", "InstanceStart", "SendCtrlAltDel"}},
	reflect.TypeFor[firecracker.VMState]():     {values: []string{"Paused", "Resumed"}},
	reflect.TypeFor[firecracker.LogLevel]():    {values: logLevels, optional: true, free: true, refusal: "Invalid LevelFilter"},
	reflect.TypeFor[snapshotType]():            {values: []string{"Diff", "Full"}},
	reflect.TypeFor[memBackendType]():          {values: []string{"File", "Uffd"}},
}

func (d *decoder) enum(into reflect.Value, e enum) error {
	t, err := d.token()
	if err != nil {
		return err
	}
	s, ok := t.(string)
	if !ok {
		// serde_json looks at the first byte only.
		length := len(fmt.Sprint(t))
		if t == nil {
			length = len("null")
		}
		return d.fail(1-length, "expected value")
	}
	for _, value := range e.values {
		if value == s || e.free && strings.EqualFold(value, s) {
			into.SetString(value)
			return nil
		}
	}
	if e.free {
		return d.fail(1, "%s", e.refusal)
	}
	return d.fail(0, "unknown variant `%s`, expected %s", s, oneOf(e.values))
}
