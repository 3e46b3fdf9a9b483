// Package ruleset puts nftables tables into the kernel, whole and in one
// transaction, and tells when another program touches the rules.
//
// A [Table] is written with matches that know both their netlink expressions
// and the words that nft(8) prints for them, so a table can be read in a test
// as text, and the text can be held against what nft prints of the kernel's.
package ruleset

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Table is one nftables table, complete.
type Table struct {
	Family nftables.TableFamily
	Name   string
	Sets   []*Set
	Chains []Chain
}

// Set is a named set and its elements.
type Set struct {
	Name string
	// Types are those of the concatenated parts of an element.
	Types    []nftables.SetDatatype
	Elements []Element
	// Size is how many elements rules may put in; 0 is a set that they only
	// look at.
	Size uint32
}

// Element is one element of a set: its text as nft prints it, and its key, each
// part padded to four bytes.
type Element struct {
	Text string
	Key  []byte
}

// Chain is a base chain with an accept policy.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority *nftables.ChainPriority
	// At is how nft names hook and priority.
	At    string
	Rules []Rule
}

// Rule is one rule. Comment says in the kernel's own listing what it is for.
type Rule struct {
	Comment string
	parts   []Part
}

// Part is a match or a verdict.
type Part struct {
	text  string
	exprs []expr.Any
}

// NewRule makes a rule of matches and a verdict, in order.
func NewRule(comment string, parts ...Part) Rule { return Rule{comment, parts} }

// Without gives the chain without the rules that have the comment.
func (c Chain) Without(comment string) Chain {
	c.Rules = slices.DeleteFunc(slices.Clone(c.Rules), func(r Rule) bool { return r.Comment == comment })
	return c
}

// Exprs are the rule's expressions as the kernel takes them.
func (r Rule) Exprs() []expr.Any {
	var all []expr.Any
	for _, p := range r.parts {
		all = append(all, p.exprs...)
	}
	return all
}

// String gives the rule as nft prints it.
func (r Rule) String() string {
	var words []string
	for _, p := range r.parts {
		words = append(words, p.text)
	}
	if r.Comment != "" {
		words = append(words, fmt.Sprintf("comment %q", r.Comment))
	}
	return strings.Join(words, " ")
}

// String gives the table as `nft list table` prints it.
func (t Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", familyName(t.Family), t.Name)
	var blocks []string
	for _, s := range t.Sets {
		blocks = append(blocks, s.String())
	}
	for _, c := range t.Chains {
		blocks = append(blocks, c.String())
	}
	b.WriteString(strings.Join(blocks, "\n"))
	b.WriteString("}\n")
	return b.String()
}

func (s *Set) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n", s.Name, strings.Join(typeNames(s.Types), " . "))
	if s.Size > 0 {
		fmt.Fprintf(&b, "\t\tsize %d\n\t\tflags dynamic\n", s.Size)
	}
	if len(s.Elements) > 0 {
		fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(elementTexts(s.Elements), ", "))
	}
	b.WriteString("\t}\n")
	return b.String()
}

func (c Chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tchain %s {\n\t\ttype %s %s; policy accept;\n", c.Name, c.Type, c.At)
	for _, r := range c.Rules {
		fmt.Fprintf(&b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
	return b.String()
}

func typeNames(types []nftables.SetDatatype) []string {
	var names []string
	for _, t := range types {
		names = append(names, t.Name)
	}
	return names
}

func elementTexts(elements []Element) []string {
	var texts []string
	for _, e := range elements {
		texts = append(texts, e.Text)
	}
	return texts
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyBridge:
		return "bridge"
	}
	return fmt.Sprintf("family-%d", f)
}
