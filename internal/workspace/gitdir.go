package workspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/workspace/wire"
)

// outgoing is a file of a guest's .git: its bytes, or a file that has them.
type outgoing struct {
	path string // below .git
	data []byte
	file string
	stat wire.Stat
}

func text(path, data string) outgoing {
	return outgoing{path: path, data: []byte(data), stat: wire.Stat{Type: wire.File, Mode: 0o644, MTime: time.Now().UnixNano(), Size: int64(len(data))}}
}

// isNullOID says whether an object name is no object's.
func isNullOID(oid string) bool { return strings.Trim(oid, "0") == "" }

// headFile is the text of .git/HEAD, without its line end.
func (r *repo) headFile() string {
	if r.branch != "" {
		return "ref: " + r.branch
	}
	return r.head
}

// oids are the objects that the refs name, each once.
func (r *repo) oids() []string {
	var oids []string
	for _, ref := range r.refs {
		oids = append(oids, ref.OID)
	}
	if r.head != "" {
		oids = append(oids, r.head)
	}
	slices.Sort(oids)
	return slices.Compact(oids)
}

// packedRefs is the file with all refs. The order is git's own.
func (r *repo) packedRefs() string {
	refs := slices.Clone(r.refs)
	slices.SortFunc(refs, func(a, b wire.Ref) int { return strings.Compare(a.Name, b.Name) })
	var text strings.Builder
	for _, ref := range refs {
		fmt.Fprintf(&text, "%s %s\n", ref.OID, ref.Name)
	}
	return text.String()
}

// refFiles are HEAD and the refs.
func (r *repo) refFiles() []outgoing {
	files := []outgoing{text("HEAD", r.headFile()+"\n"), text("packed-refs", r.packedRefs())}
	for _, ref := range r.symrefs {
		files = append(files, text(ref.Name, "ref: "+ref.OID+"\n"))
	}
	if line := r.lastSwitch(); line != "" {
		files = append(files, text("logs/HEAD", line))
	}
	return files
}

// lastSwitch is the line of HEAD's log from which git tells where a detached
// HEAD is from. All other logs stay here.
func (r *repo) lastSwitch() string {
	if r.branch != "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(r.gitDir, "logs", "HEAD"))
	if err != nil {
		return "" // git does without
	}
	last := ""
	for line := range strings.Lines(string(data)) {
		head, what, _ := strings.Cut(line, "\t")
		if part := strings.SplitN(head, " ", 3); len(part) == 3 && part[1] == r.head && strings.HasPrefix(what, "checkout: moving from ") {
			last = strings.Repeat("0", len(part[0])) + " " + part[1] + " " + part[2] + "\t" + what
		}
	}
	return last
}

// setupFiles are what the guest's git needs to know of the repository, without
// what is the host's own business.
func (r *repo) setupFiles() ([]outgoing, error) {
	files := []outgoing{text("config", guestConfig(r.config, r.format))}
	exclude, err := r.excludes()
	if err != nil {
		return nil, err
	}
	files = append(files, text("info/exclude", exclude))
	for path, name := range map[string]string{
		"info/attributes":      filepath.Join(r.common, "info", "attributes"),
		"info/sparse-checkout": filepath.Join(r.gitDir, "info", "sparse-checkout"),
		"shallow":              filepath.Join(r.common, "shallow"),
	} {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the repository: %w", err)
		}
		files = append(files, text(path, string(data)))
	}
	return files, nil
}

// excludes are the repository's own ignored names and the user's.
func (r *repo) excludes() (string, error) {
	var text bytes.Buffer
	for _, name := range []string{r.userExcludes(), filepath.Join(r.common, "info", "exclude")} {
		if name == "" {
			continue
		}
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("cannot read what git ignores: %w", err)
		}
		text.Write(data)
		text.WriteByte('\n')
	}
	return text.String(), nil
}

func (r *repo) userExcludes() string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	if name := value(r.config, "core.excludesfile"); name != "" {
		if rest, ok := strings.CutPrefix(name, "~/"); ok {
			name = filepath.Join(home, rest)
		}
		return name
	}
	if dir := os.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "git", "ignore")
	}
	return filepath.Join(home, ".config", "git", "ignore")
}

// isPartial says whether the clone has left objects out on purpose.
func (r *repo) isPartial() bool {
	return value(r.config, "extensions.partialclone") != "" || slices.ContainsFunc(r.config, func(s setting) bool {
		return generalKey(s.key) == "remote.promisor" && s.value == "true"
	})
}

// indexFile is the index for the guest: the host's, in its plainest form. Git does
// not trust what it says of a file that is as young as the index, and looks into
// the file; the guest's git would see a file of git-lfs there, and no pointer. So
// the host's git, which knows the filters, looks as it writes the index anew, and
// that index has the time of this look.
func (r *repo) indexFile(ctx context.Context, scratch string) (outgoing, error) {
	plain := filepath.Join(scratch, "index")
	data, err := os.ReadFile(r.index)
	if err != nil {
		return outgoing{}, fmt.Errorf("cannot read git's index: %w", err)
	}
	before, err := wire.Look(r.index)
	if err != nil {
		return outgoing{}, err
	}
	if err := os.WriteFile(plain, data, 0o600); err != nil {
		return outgoing{}, fmt.Errorf("cannot copy git's index: %w", err)
	}
	written := time.Unix(0, before.MTime)
	if err := os.Chtimes(plain, written, written); err != nil {
		return outgoing{}, fmt.Errorf("cannot copy git's index: %w", err)
	}
	if _, err := r.git.with("GIT_INDEX_FILE="+plain).run(ctx, "update-index", "--index-version", "2", "--no-split-index", "--no-untracked-cache", "--force-write-index"); err != nil {
		return outgoing{}, err
	}
	if data, err = os.ReadFile(plain); err != nil {
		return outgoing{}, fmt.Errorf("cannot read git's index: %w", err)
	}
	looked, err := wire.Look(plain)
	if err != nil {
		return outgoing{}, err
	}
	if data, err = withoutExtensions(data, r.format); err != nil {
		return outgoing{}, err
	}
	out := text("index", string(data))
	out.stat.MTime = looked.MTime
	return out, nil
}

// pack packs what the refs and the index reach, without what the objects in
// have reach, and gives the files; there are none where nothing is new.
func (r *repo) pack(ctx context.Context, scratch string, have []string) ([]outgoing, error) {
	staged, err := r.staged(ctx)
	if err != nil {
		return nil, err
	}
	var revs strings.Builder
	for _, oid := range append(r.oids(), staged...) {
		if !slices.Contains(have, oid) {
			revs.WriteString(oid + "\n")
		}
	}
	if revs.Len() == 0 {
		return nil, nil
	}
	known, err := r.stillThere(ctx, have)
	if err != nil {
		return nil, err
	}
	for _, oid := range known {
		revs.WriteString("^" + oid + "\n")
	}
	args := []string{"-c", "pack.compression=1", "pack-objects", "--revs", "-q", "--delta-base-offset", "--window=0"}
	if r.isPartial() {
		args = append(args, "--missing=allow-any")
	}
	name, err := r.git.feed(ctx, strings.NewReader(revs.String()), append(args, filepath.Join(scratch, "pack"))...)
	if err != nil {
		return nil, fmt.Errorf("cannot pack the objects of %s: %w", r.dir, err)
	}
	var files []outgoing
	for hash := range strings.Lines(string(name)) {
		packed, err := r.packFiles(scratch, strings.TrimSpace(hash))
		if err != nil {
			return nil, err
		}
		files = append(files, packed...)
	}
	return files, nil
}

func (r *repo) packFiles(scratch, hash string) ([]outgoing, error) {
	var files []outgoing
	for _, ext := range []string{".pack", ".idx"} {
		full := filepath.Join(scratch, "pack-"+hash+ext)
		stat, err := wire.Look(full)
		if err != nil {
			return nil, err
		}
		stat.Mode = 0o444
		files = append(files, outgoing{path: "objects/pack/pack-" + hash + ext, file: full, stat: stat})
	}
	if r.isPartial() {
		files = append(files, text("objects/pack/pack-"+hash+".promisor", ""))
	}
	return files, nil
}

// stillThere leaves out objects that the repository has lost since.
func (r *repo) stillThere(ctx context.Context, oids []string) ([]string, error) {
	if len(oids) == 0 {
		return nil, nil
	}
	out, err := r.git.feed(ctx, strings.NewReader(strings.Join(oids, "\n")+"\n"), "cat-file", "--batch-check=%(objectname)")
	if err != nil {
		return nil, err
	}
	var known []string
	for line := range strings.Lines(string(out)) {
		if oid := strings.TrimSpace(line); !strings.Contains(oid, " ") {
			known = append(known, oid)
		}
	}
	return known, nil
}

// staged are the blobs that are in the index and in no commit of HEAD.
func (r *repo) staged(ctx context.Context) ([]string, error) {
	if r.index == "" {
		return nil, nil
	}
	var lines []string
	if r.head == "" {
		out, err := r.git.run(ctx, "ls-files", "-z", "--stage")
		if err != nil {
			return nil, err
		}
		for _, line := range fields(out) { // mode object stage, path
			if part := strings.Fields(line); len(part) > 2 && part[0] != gitlink {
				lines = append(lines, part[1])
			}
		}
	} else {
		out, err := r.git.run(ctx, "diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", "--ignore-submodules", r.head)
		if err != nil {
			return nil, err
		}
		all := fields(out) // :mode mode object object letter, path, and so on
		for i := 0; i+1 < len(all); i += 2 {
			if part := strings.Fields(all[i]); len(part) == 5 && part[1] != gitlink {
				lines = append(lines, part[3])
			}
		}
	}
	slices.Sort(lines)
	return slices.DeleteFunc(slices.Compact(lines), isNullOID), nil
}
