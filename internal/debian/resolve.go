package debian

import (
	"fmt"
	"slices"

	"pault.ag/go/debian/dependency"
	"pault.ag/go/debian/version"
)

// resolver chooses packages until every dependency of the chosen is met.
type resolver struct {
	index  *index
	chosen map[string]*Package
	queue  []*Package // chosen, dependencies not looked at yet
	order  []*Package
}

// resolve chooses names, at their newest versions, and what they need. Names
// come first, so that an alternative among them is preferred to one that a
// dependency lists earlier.
func resolve(x *index, names []string) ([]Package, error) {
	r := &resolver{index: x, chosen: map[string]*Package{}}
	for _, name := range names {
		p, err := x.newest(name)
		if err != nil {
			return nil, err
		}
		r.choose(p)
	}
	for len(r.queue) > 0 {
		p := r.queue[0]
		r.queue = r.queue[1:]
		if err := r.meet(p); err != nil {
			return nil, err
		}
	}
	return r.result(), nil
}

func (r *resolver) choose(p *Package) {
	if r.chosen[p.Name] != nil {
		return
	}
	r.chosen[p.Name] = p
	r.queue = append(r.queue, p)
	r.order = append(r.order, p)
}

// result puts the essential packages first.
func (r *resolver) result() []Package {
	var essential, others []Package
	for _, p := range r.order {
		if p.Essential {
			essential = append(essential, *p)
		} else {
			others = append(others, *p)
		}
	}
	return append(essential, others...)
}

// meet chooses what p depends on.
func (r *resolver) meet(p *Package) error {
	relations, err := p.needs()
	if err != nil {
		return err
	}
	for _, relation := range relations {
		if slices.ContainsFunc(relation.Possibilities, r.isMet) {
			continue
		}
		best := r.best(relation.Possibilities)
		if best == nil {
			return notInArchive("package %s needs %s, which the archive does not have", p.Name, relation.String())
		}
		r.choose(best)
	}
	return nil
}

// needs parses Pre-Depends and Depends.
func (p *Package) needs() ([]dependency.Relation, error) {
	pre, err := parseRelations(p.Name, p.preDepends)
	if err != nil {
		return nil, err
	}
	all, err := parseRelations(p.Name, p.depends)
	return append(pre, all...), err
}

func parseRelations(name, text string) ([]dependency.Relation, error) {
	if text == "" {
		return nil, nil
	}
	parsed, err := dependency.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("cannot read what package %s depends on: %w", name, err)
	}
	return parsed.Relations, nil
}

// isMet tells whether a chosen package is, or provides, what is asked for.
func (r *resolver) isMet(want dependency.Possibility) bool {
	if p := r.chosen[want.Name]; p != nil && satisfies(p.Version, want.Version) {
		return true
	}
	return slices.ContainsFunc(r.index.provided[want.Name], func(v provision) bool {
		return r.chosen[v.by.Name] == v.by && providesEnough(v, want.Version)
	})
}

// best is the package to choose for a dependency: that of the first
// alternative which can be had, a real package before one that provides it.
// Of a name that is chosen already no second version comes.
func (r *resolver) best(alternatives []dependency.Possibility) *Package {
	for _, want := range alternatives {
		if p := r.real(want); p != nil {
			return p
		}
		for _, v := range r.index.provided[want.Name] {
			if r.chosen[v.by.Name] == nil && r.index.byName[v.by.Name][0] == v.by && providesEnough(v, want.Version) {
				return v.by
			}
		}
	}
	return nil
}

func (r *resolver) real(want dependency.Possibility) *Package {
	if r.chosen[want.Name] != nil {
		return nil
	}
	for _, p := range r.index.byName[want.Name] {
		if satisfies(p.Version, want.Version) {
			return p
		}
	}
	return nil
}

// providesEnough holds policy 7.5: an unversioned Provides never meets a
// versioned dependency.
func providesEnough(v provision, want *dependency.VersionRelation) bool {
	return want == nil || v.version != "" && satisfies(v.version, want)
}

// satisfies compares as a relation such as ">= 1.2" asks.
func satisfies(have string, want *dependency.VersionRelation) bool {
	if want == nil {
		return true
	}
	a, err := version.Parse(have)
	if err != nil {
		return false
	}
	b, err := version.Parse(want.Number)
	if err != nil {
		return false
	}
	c := version.Compare(a, b)
	switch want.Operator {
	case "<<":
		return c < 0
	case "<=", "<":
		return c <= 0
	case "=":
		return c == 0
	case ">=", ">":
		return c >= 0
	case ">>":
		return c > 0
	}
	return false
}

// selection finds packages among chosen ones.
type selection struct {
	index  *index
	chosen map[string]*Package
}

func newSelection(all []Package) *selection {
	s := &selection{index: newIndex(), chosen: map[string]*Package{}}
	for i := range all {
		s.chosen[all[i].Name] = &all[i]
		_ = s.index.putProvides(&all[i]) // was parsed when the package list was read
	}
	return s
}

// meeting gives the chosen packages that meet relations, one for each.
func (s *selection) meeting(relations []dependency.Relation) []*Package {
	var found []*Package
	for _, relation := range relations {
		for _, want := range relation.Possibilities {
			if p := s.meets(want); p != nil {
				found = append(found, p)
				break
			}
		}
	}
	return found
}

func (s *selection) meets(want dependency.Possibility) *Package {
	if p := s.chosen[want.Name]; p != nil && satisfies(p.Version, want.Version) {
		return p
	}
	for _, v := range s.index.provided[want.Name] {
		if providesEnough(v, want.Version) {
			return v.by
		}
	}
	return nil
}
