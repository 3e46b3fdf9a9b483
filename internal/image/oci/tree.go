package oci

import "strings"

// The bounds of Linux: a name, a path, and how many links a path may lead
// through (the kernel takes 40, umoci 255).
const (
	maxName  = 255
	maxPath  = 4095
	maxLinks = 255
)

// kind is what an entry of the tree is, as far as paths are concerned.
type kind uint8

const (
	other kind = iota // a file, a device, a pipe
	directory
	symlink
)

// node is one name in the tree.
type node struct {
	kind     kind
	layer    int32            // the topmost layer that has touched it or what is below it
	target   string           // of a symbolic link
	children map[string]*node // of a directory, by name
}

// tree is what a filesystem holds so far: enough to find out where a path
// leads, and what a whiteout hides.
type tree struct {
	root node
}

func newTree() *tree {
	return &tree{root: node{kind: directory, layer: -1}}
}

func (n *node) put(name string, child *node) {
	if n.children == nil {
		n.children = map[string]*node{}
	}
	n.children[name] = child
}

// step is one part of a path that was followed. node is nil for what is not
// there.
type step struct {
	name string
	node *node
}

// place is a directory, or where one would be: the steps from the root.
type place []step

func (p place) path() string {
	names := make([]string, len(p))
	for i, s := range p {
		names[i] = s.name
	}
	return strings.Join(names, "/")
}

// join is the path of a name in the place.
func (p place) join(name string) string {
	if len(p) == 0 {
		return name
	}
	return p.path() + "/" + name
}

// clean splits the name of an entry into its parts. Names are relative to the
// image's root, also absolute ones.
func clean(name string) ([]string, error) {
	if len(name) > maxPath {
		return nil, badImage("the name %.60q… has %d bytes, more than the %d that Linux allows", name, len(name), maxPath)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == ".." && len(parts) == 0:
			return nil, badImage("the name %q leaves the image", name)
		case part == "..":
			parts = parts[:len(parts)-1]
		case len(part) > maxName:
			return nil, badImage("the name %.60q… has a part of %d bytes, more than the %d that Linux allows", name, len(part), maxName)
		case strings.ContainsRune(part, 0):
			return nil, badImage("the name %q holds a zero byte", name)
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// follow finds the directory that parts name, through symbolic links as a
// process in the image would see them. What is not there is part of the place
// all the same. A link that leads out of the image is an error, as is a path
// through what is no directory.
func (t *tree) follow(parts []string) (place, error) {
	var at place
	links := 0
	ahead := make([]string, 0, len(parts))
	push := func(names []string) {
		for i := len(names) - 1; i >= 0; i-- {
			ahead = append(ahead, names[i])
		}
	}
	push(parts)
	for len(ahead) > 0 {
		name := ahead[len(ahead)-1]
		ahead = ahead[:len(ahead)-1]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return nil, badImage("%q leads through a symbolic link out of the image", strings.Join(parts, "/"))
			}
			at = at[:len(at)-1]
			continue
		}
		if len(name) > maxName {
			return nil, badImage("a symbolic link on the way to %q has too long a name in it", strings.Join(parts, "/"))
		}
		next := t.child(at, name)
		if next == nil || next.kind == directory {
			at = append(at, step{name, next})
			continue
		}
		if next.kind != symlink {
			return nil, badImage("%q leads through %q, which is no directory", strings.Join(parts, "/"), at.join(name))
		}
		if links++; links > maxLinks {
			return nil, badImage("%q leads through too many symbolic links", strings.Join(parts, "/"))
		}
		if strings.HasPrefix(next.target, "/") {
			at = at[:0]
		}
		push(strings.Split(next.target, "/"))
	}
	if len(at.path()) > maxPath {
		return nil, badImage("%.60q… leads to a path of more than %d bytes", strings.Join(parts, "/"), maxPath)
	}
	return at, nil
}

// child is what has the name in the place, nil when nothing has.
func (t *tree) child(at place, name string) *node {
	dir := t.dir(at)
	if dir == nil {
		return nil
	}
	return dir.children[name]
}

// dir is the node of a place, nil when it is not there.
func (t *tree) dir(at place) *node {
	if len(at) == 0 {
		return &t.root
	}
	return at[len(at)-1].node
}

// touch notes that a layer has something in the place.
func (t *tree) touch(at place, layer int32) {
	t.root.layer = layer
	for _, s := range at {
		s.node.layer = layer
	}
}
