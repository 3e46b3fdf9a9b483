package ext4

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Close writes the metadata and closes the file, which is then a filesystem
// with some room left. It does not sync the file. When it fails the file is
// removed.
func (w *Writer) Close() error {
	if err := w.finish(); err != nil {
		return fmt.Errorf("cannot finish a filesystem: %w", errors.Join(err, w.Abort()))
	}
	file := w.blocks.file
	w.blocks.file = nil
	if err := file.Close(); err != nil {
		return fmt.Errorf("cannot finish a filesystem: %w", err)
	}
	return nil
}

func (w *Writer) finish() error {
	if _, there := w.root.children["lost+found"]; !there {
		if err := w.Mkdir("lost+found", Attr{Mode: 0o700}); err != nil {
			return err
		}
	}
	seed := checksum(^uint32(0), w.options.UUID[:])
	inodes, directories := w.number()
	if err := w.writeDirectories(directories, seed); err != nil {
		return err
	}
	for _, n := range inodes {
		if err := w.writeRest(n, seed); err != nil {
			return err
		}
	}
	l, err := w.plan(inodes, seed)
	if err != nil {
		return err
	}
	return w.writeLayout(l)
}

// parented is a directory and what "..", in it, is.
type parented struct{ node, parent *node }

// number gives each inode its number, in the order of the tree, and lists them
// in this order, without the root. The first is firstInode's.
func (w *Writer) number() (inodes []*node, directories []parented) {
	w.root.number = rootInode
	directories = []parented{{w.root, w.root}}
	next := uint32(firstInode)
	for i := 0; i < len(directories); i++ {
		dir := directories[i].node
		for _, name := range slices.Sorted(maps.Keys(dir.children)) {
			child := dir.children[name]
			if child.number != 0 {
				continue // another name of it was met
			}
			child.number = next
			next++
			inodes = append(inodes, child)
			if child.isDirectory() {
				directories = append(directories, parented{child, dir})
			}
		}
	}
	return inodes, directories
}

func (w *Writer) writeDirectories(directories []parented, seed uint32) error {
	hashSeed := w.options.hashSeed()
	for _, p := range directories {
		d := directory{number: p.node.number, parent: p.parent.number, seed: inodeSeed(seed, p.node.number)}
		d.names = make([]name, 0, len(p.node.children))
		subdirectories := uint32(0)
		for _, text := range slices.Sorted(maps.Keys(p.node.children)) {
			child := p.node.children[text]
			d.names = append(d.names, name{text: text, number: child.number, kind: kinds[child.mode&modeType]})
			if child.isDirectory() {
				subdirectories++
			}
		}
		data, indexed := d.encode(hashSeed)
		if data == nil {
			return &LimitError{"blocks in one directory", maxLists}
		}
		if indexed {
			p.node.rare().indexed = true
		}
		if p.node.links = 2 + subdirectories; p.node.links > maxLinks {
			p.node.links = 1 // not counted any more (dir_nlink)
		}
		p.node.size = int64(len(data))
		if err := w.blocks.placeAll(p.node, data); err != nil {
			return err
		}
	}
	return nil
}

// placeAll writes data that is no content of files.
func (b *blocks) placeAll(n *node, data []byte) error {
	for logical := uint32(0); len(data) > 0; {
		at, count := b.take(min(uint64(len(data)/blockSize), bufferBlocks))
		n.place(extent{logical, uint32(count), at})
		if err := b.put(at, data[:count*blockSize]); err != nil {
			return err
		}
		data = data[count*blockSize:]
		logical += uint32(count)
	}
	return nil
}

// writeRest writes what an inode has outside of itself, beside its content.
func (w *Writer) writeRest(n *node, seed uint32) error {
	if n.more == nil {
		return nil
	}
	if n.mode&modeType == modeSymlink && n.size > shortSymlink {
		block := make([]byte, blockSize)
		copy(block, n.more.target)
		if err := w.blocks.placeAll(n, block); err != nil {
			return err
		}
	}
	if len(n.more.xattrs) > 0 {
		if _, outside := splitXattrs(mustStore(n.more.xattrs)); len(outside) > 0 {
			n.more.xattrBlock = w.blocks.takeOne()
			if err := w.blocks.put(n.more.xattrBlock, xattrBlock(outside, n.more.xattrBlock, seed)); err != nil {
				return err
			}
		}
	}
	return w.blocks.tree(n, inodeSeed(seed, n.number))
}
