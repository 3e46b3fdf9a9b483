package oci

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/banger-vm/banger/api"
)

// What stands in an archive (image-spec, image-layout.md; moby's image/spec).
const (
	layoutIndex    = "index.json"
	saveManifest   = "manifest.json"
	layoutBlobs    = "blobs/sha256/"
	refAnnotation  = "org.opencontainers.image.ref.name"
	nameAnnotation = "io.containerd.image.name" // the whole reference, as docker writes it
	maxMembers     = 100_000
)

// Archive is a file that `docker save`, skopeo, buildah or podman wrote: an OCI
// image layout in a tar archive, or Docker's own form.
type Archive struct {
	name    string // as errors call it
	file    *os.File
	members map[string]member
}

// member is where a file's content is in the archive.
type member struct {
	offset, size int64
	link         string // another member, when it is a symbolic or hard link
}

// OpenArchive reads the table of the archive in a file. Errors carry an
// *api.Error of kind bad-request.
func OpenArchive(file string) (*Archive, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, badArchive("the file must exist and be readable by bangerd", "cannot use %s: %v", file, errors.Unwrap(err))
	}
	return ReadArchive(f, file)
}

// ReadArchive is OpenArchive of an open file, which it takes over. Errors call
// it by name.
func ReadArchive(f *os.File, name string) (*Archive, error) {
	a := &Archive{name: name, file: f, members: map[string]member{}}
	if err := a.index(); err != nil {
		f.Close()
		return nil, err
	}
	return a, nil
}

func badArchive(hint, format string, args ...any) error {
	return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// Close ends the use of the archive, and of the images that it gave.
func (a *Archive) Close() error { return a.file.Close() }

func (a *Archive) index() error {
	if info, err := a.file.Stat(); err != nil || !info.Mode().IsRegular() {
		return badArchive("give the file that `docker save` or `skopeo copy … oci-archive:file` writes", "%s is not a regular file", a.name)
	}
	magic := make([]byte, 4)
	if n, _ := a.file.ReadAt(magic, 0); isGzip(magic[:n]) || isZstd(magic[:n]) {
		return badArchive("decompress it first: `gunzip` or `zstd -d`", "%s is compressed as a whole", a.name)
	}
	for entries := tar.NewReader(a.file); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return badArchive("it may be cut off; save the image again", "%s is no tar archive, or a broken one: %v", a.name, err)
		}
		if len(a.members) == maxMembers {
			return badArchive("an image is a file for each layer", "%s has more than %d files", a.name, maxMembers)
		}
		if err := a.add(h); err != nil {
			return err
		}
	}
	return nil
}

// add notes where a member is: the archive's reader has read its header, and
// nothing more.
func (a *Archive) add(h *tar.Header) error {
	offset, err := a.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", a.name, err)
	}
	name := path.Clean("/" + h.Name)[1:]
	switch h.Typeflag {
	case tar.TypeReg:
		a.members[name] = member{offset: offset, size: h.Size}
	case tar.TypeSymlink:
		a.members[name] = member{link: path.Join("/", path.Dir(name), h.Linkname)[1:]}
	case tar.TypeLink:
		a.members[name] = member{link: path.Clean("/" + h.Linkname)[1:]}
	}
	return nil
}

// section is a member's content. Old versions of docker write a layer once and
// then links to it.
func (a *Archive) section(name string) (*io.SectionReader, error) {
	m, ok := a.members[path.Clean("/" + name)[1:]]
	if ok && m.link != "" {
		m, ok = a.members[m.link]
	}
	if !ok || m.link != "" {
		return nil, badImage("%.200q is not in the archive", name)
	}
	return io.NewSectionReader(a.file, m.offset, m.size), nil
}

func (a *Archive) small(name string, most int64) ([]byte, error) {
	s, err := a.section(name)
	if err != nil {
		return nil, err
	}
	if s.Size() > most {
		return nil, badImage("%.200q has %d bytes; %d is the most", name, s.Size(), most)
	}
	data, err := io.ReadAll(s)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", a.name, err)
	}
	return data, nil
}

// Resolve finds an image in the archive: the one with the reference, which may
// be empty when there is only one. Errors are like those of
// [Registry.Resolve].
func (a *Archive) Resolve(reference, wanted string) (*Image, error) {
	want, err := parsePlatform(wanted)
	if err != nil {
		return nil, err
	}
	if _, ok := a.members[layoutIndex]; ok {
		return a.fromLayout(reference, want)
	}
	if _, ok := a.members[saveManifest]; ok {
		return a.fromSave(reference, want)
	}
	return nil, badArchive("give the file that `docker save` or `skopeo copy … oci-archive:file` writes",
		"%s holds no image: there is neither %s nor %s in it", a.name, layoutIndex, saveManifest)
}

// canonical is a reference in its long form, or what it is.
func canonical(reference string) string {
	ref, err := Parse(reference)
	if err != nil {
		return reference
	}
	return ref.String()
}

func (a *Archive) fromLayout(reference string, want platform) (*Image, error) {
	var index v1.IndexManifest
	data, err := a.small(layoutIndex, maxManifest)
	if err == nil {
		err = decode(data, "index", &index)
	}
	if err != nil {
		return nil, err
	}
	named, err := a.pick(&index, reference)
	if err != nil {
		return nil, err
	}
	for range maxIndexes {
		d, err := choose(named, want)
		if err != nil {
			return nil, err
		}
		data, err := a.blob(d, maxManifest)
		if err != nil {
			return nil, err
		}
		if d.MediaType.IsImage() {
			image, err := a.fromManifest(data, want)
			if err == nil {
				image.Digest = d.Digest.String()
			}
			return image, err
		}
		named = &v1.IndexManifest{}
		if err := decode(data, "index", named); err != nil {
			return nil, err
		}
	}
	return nil, badImage("it is an index in an index in an index, and so on")
}

// pick leaves of a layout's index what has the reference. An archive of one
// image needs no name.
func (a *Archive) pick(index *v1.IndexManifest, reference string) (*v1.IndexManifest, error) {
	var images, named v1.IndexManifest
	names := map[string]bool{}
	for _, d := range index.Manifests {
		if !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
			continue
		}
		images.Manifests = append(images.Manifests, d)
		short, long := d.Annotations[refAnnotation], d.Annotations[nameAnnotation]
		if long == "" {
			long = short
		}
		names[long] = true
		if reference != "" && (canonical(long) == canonical(reference) || short == tagOf(reference)) {
			named.Manifests = append(named.Manifests, d)
		}
	}
	switch {
	case len(images.Manifests) == 0:
		return nil, badArchive("save the image again", "%s holds no image", a.name)
	case len(named.Manifests) > 0:
		return &named, nil
	case len(names) == 1:
		return &images, nil
	}
	return nil, a.whichOne(reference, names)
}

func tagOf(reference string) string { return reference[strings.LastIndexAny(reference, ":")+1:] }

// whichOne lists what there is.
func (a *Archive) whichOne(reference string, names map[string]bool) error {
	var list []string
	for name := range names {
		if name != "" {
			list = append(list, name)
		}
	}
	hint := "in it are: " + strings.Join(slices.Sorted(slices.Values(list)), ", ")
	if reference == "" {
		return badArchive(hint+"; name one before --tar", "%s holds more than one image", a.name)
	}
	return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("%s holds no image %s", a.name, reference), Hint: hint}
}

// blob reads a small blob of a layout and checks its digest.
func (a *Archive) blob(d v1.Descriptor, most int64) ([]byte, error) {
	if err := checkDigest(d.Digest.String()); err != nil {
		return nil, err
	}
	data, err := a.small(layoutBlobs+d.Digest.Hex, most)
	if err != nil {
		return nil, err
	}
	return data, checkBytes("blob", data, d.Digest.String())
}

func (a *Archive) fromManifest(data []byte, want platform) (*Image, error) {
	var m v1.Manifest
	if err := decode(data, "manifest", &m); err != nil {
		return nil, err
	}
	if err := checkManifest(&m); err != nil {
		return nil, err
	}
	config, err := a.blob(m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	var layers []Layer
	for _, l := range m.Layers {
		if err := checkDigest(l.Digest.String()); err != nil {
			return nil, err
		}
		layer, err := a.layer(layoutBlobs + l.Digest.Hex)
		if err != nil {
			return nil, err
		}
		layer.Digest, layer.Size = l.Digest.String(), l.Size
		layers = append(layers, layer)
	}
	return describe(config, want, layers)
}

func (a *Archive) layer(name string) (Layer, error) {
	s, err := a.section(name)
	if err != nil {
		return Layer{}, err
	}
	return Layer{Size: s.Size(), open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(s, 0, s.Size())), nil
	}}, nil
}

// saved is an entry of manifest.json.
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *Archive) fromSave(reference string, want platform) (*Image, error) {
	data, err := a.small(saveManifest, maxManifest)
	if err != nil {
		return nil, err
	}
	var all []saved
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, badImage("its %s can't be read: %v", saveManifest, err)
	}
	s, err := a.pickSaved(all, reference)
	if err != nil {
		return nil, err
	}
	if len(s.Layers) > maxLayers {
		return nil, badImage("it has %d layers; %d is the most", len(s.Layers), maxLayers)
	}
	config, err := a.small(s.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	digest := "sha256:" + strings.TrimSuffix(path.Base(s.Config), ".json")
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	if err := checkBytes("configuration", config, digest); err != nil {
		return nil, err
	}
	var layers []Layer
	for _, name := range s.Layers {
		layer, err := a.layer(name)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	image, err := describe(config, want, layers)
	if err != nil {
		return nil, err
	}
	image.Digest = digest
	return image, nil
}

func (a *Archive) pickSaved(all []saved, reference string) (saved, error) {
	names := map[string]bool{}
	for _, s := range all {
		for _, tag := range s.RepoTags {
			names[tag] = true
			if reference != "" && canonical(tag) == canonical(reference) {
				return s, nil
			}
		}
	}
	switch len(all) {
	case 0:
		return saved{}, badArchive("save the image again", "%s holds no image", a.name)
	case 1:
		return all[0], nil
	}
	return saved{}, a.whichOne(reference, names)
}
