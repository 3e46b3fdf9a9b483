package workspace

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/workspace/wire"
)

// Store is the directory where a user's host remembers what it has put into
// which VM: what is needed to send only changes, and to tell what is the
// guest's work. It holds a directory for each VM, by its id.
type Store struct {
	Dir string
	// AtStep, when not nil, is called with the name of each step of a put and of
	// a pull just before it.
	AtStep func(step string)
}

// The steps of a put of what is not in the guest yet, of one of changes, and of
// a pull, in their order.
var (
	PutSteps    = []string{"put.plan", "put.send", "put.remember", "put.finish"}
	UpdateSteps = []string{"put.plan", "put.send", "put.finish", "put.remember"}
	PullSteps   = []string{"pull.fetch", "pull.remember"}
)

func (s Store) step(name string) {
	if s.AtStep != nil {
		s.AtStep(name)
	}
}

// memoryFormat is the version of workspace.json that this program writes.
const memoryFormat = 1

// memory is what is remembered of one workspace: workspace.json.
type memory struct {
	Format   int       `json:"format"`
	Host     string    `json:"host"`  // the path it came from
	Guest    string    `json:"guest"` // the path in the guest
	Put      time.Time `json:"put"`
	Repos    []kept    `json:"repos,omitempty"`
	Manifest string    `json:"manifest"` // the name of the file with the entries

	dir string
}

// kept is what is remembered of one repository, or, with an empty Common, of
// the files of a plain directory.
type kept struct {
	Prefix string     `json:"prefix"`
	Dir    string     `json:"dir"`    // of its work tree on the host
	Common string     `json:"common"` // its .git on the host
	Format string     `json:"format"` // of object names
	Head   string     `json:"head,omitempty"`
	Branch string     `json:"branch,omitempty"`
	Refs   []wire.Ref `json:"refs,omitempty"`
	Index  string     `json:"index"` // sum of what the index said
	// Base is the commit of the work tree as it went in.
	Base string `json:"base"`
	// HeadFile and PackedRefs are what the guest got.
	HeadFile   string    `json:"head_file"`
	PackedRefs wire.Stat `json:"packed_refs"`
	// Of the last pull: the tree of the guest's files, and its refs.
	SavedTree string     `json:"saved_tree,omitempty"`
	SavedHead string     `json:"saved_head,omitempty"`
	SavedRefs []wire.Ref `json:"saved_refs,omitempty"`
	// Pulled are the commits that pulls have put on branches of the host.
	Pulled map[string]string `json:"pulled,omitempty"`
	// Pulling are those that a pull was about to put there.
	Pulling map[string]string `json:"pulling,omitempty"`
}

// isPulled says whether a commit is on a branch of the host because a pull has
// put it there.
func (k *kept) isPulled(branch, oid string) bool {
	return oid != "" && (k.Pulled[branch] == oid || k.Pulling[branch] == oid)
}

func (s Store) vmDir(vm string) string { return filepath.Join(s.Dir, vm) }

// dir is where a workspace is remembered. The id of a VM is a plain name.
func (s Store) dir(vm, guest string) string {
	sum := sha256.Sum256([]byte(guest))
	return filepath.Join(s.vmDir(vm), hex.EncodeToString(sum[:6]))
}

// load gives the memory of a workspace; it is nil where there is none.
func (s Store) load(vm, guest string) (*memory, error) {
	dir := s.dir(vm, guest)
	data, err := os.ReadFile(filepath.Join(dir, "workspace.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what is known of the workspace: %w", err)
	}
	m := &memory{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("cannot read what is known of the workspace: %s is damaged: %v", dir, err)
	}
	if m.Format != memoryFormat || m.Guest != guest {
		return nil, fmt.Errorf("cannot read what is known of the workspace: %s is of another banger", dir)
	}
	m.dir = dir
	return m, nil
}

// Forget forgets all workspaces of a VM.
func (s Store) Forget(vm string) error { return os.RemoveAll(s.vmDir(vm)) }

// Sweep forgets the workspaces of the VMs that are no more.
func (s Store) Sweep(vms []string) error {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look for old workspaces: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != savedDir && !slices.Contains(vms, e.Name()) {
			errs = append(errs, s.Forget(e.Name()))
		}
	}
	return errors.Join(errs...)
}

// savedDir holds the repositories with the work on plain directories. It stays
// when VMs go.
const savedDir = "saved"

// manifest reads the entries: what went in, and in Was what the guest had made
// of it by the last pull.
func (m *memory) manifest() (map[string]wire.Entry, error) {
	file, err := os.Open(filepath.Join(m.dir, m.Manifest))
	if err != nil {
		return nil, fmt.Errorf("cannot read what is known of the workspace: %w", err)
	}
	defer file.Close()
	entries := map[string]wire.Entry{}
	for conn := wire.NewConn(file); ; {
		e, err := conn.ReadEntry()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read what is known of the workspace: %w", err)
		}
		entries[e.Path] = e
	}
}

// save remembers the workspace as it is now.
func (m *memory) save(entries map[string]wire.Entry) error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("cannot remember the workspace: %w", err)
	}
	m.Manifest = fmt.Sprintf("manifest-%d", time.Now().UnixNano())
	file, err := os.OpenFile(filepath.Join(m.dir, m.Manifest), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot remember the workspace: %w", err)
	}
	conn := wire.NewConn(file)
	for _, e := range entries {
		if err == nil {
			err = conn.Entry(e)
		}
	}
	if err == nil {
		err = conn.End()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("cannot remember the workspace: %w", err)
	}
	return m.saveHead()
}

// saveHead writes workspace.json, and removes the manifests of before.
func (m *memory) saveHead() error {
	if err := atomicfile.WriteJSON(filepath.Join(m.dir, "workspace.json"), m); err != nil {
		return fmt.Errorf("cannot remember the workspace: %w", err)
	}
	names, err := os.ReadDir(m.dir)
	if err != nil {
		return fmt.Errorf("cannot tidy what is known of the workspace: %w", err)
	}
	for _, n := range names {
		if strings.HasPrefix(n.Name(), "manifest-") && n.Name() != m.Manifest {
			os.Remove(filepath.Join(m.dir, n.Name()))
		}
	}
	return nil
}

// repo gives what is remembered of the repository at a prefix.
func (m *memory) repo(prefix string) *kept {
	if m == nil {
		return nil
	}
	for i := range m.Repos {
		if m.Repos[i].Prefix == prefix {
			return &m.Repos[i]
		}
	}
	return nil
}

// owner gives the innermost of the prefixes that a path is below.
func owner(prefixes []string, path string) (string, bool) {
	best, found := "", false
	for _, p := range prefixes {
		if (p == "" || path == p || strings.HasPrefix(path, p+"/")) && (!found || len(p) > len(best)) {
			best, found = p, true
		}
	}
	return best, found
}

// own is a bare repository beside the memory, over the objects of the host's:
// what is computed, and what comes from the guest, stays in it until a pull.
type own struct {
	dir string
	git git
}

// ownRepo opens or makes it.
func (m *memory) ownRepo(prefix string) own {
	sum := sha256.Sum256([]byte(prefix))
	dir := filepath.Join(m.dir, "git-"+hex.EncodeToString(sum[:6]))
	return own{dir: dir, git: git{dir: m.dir, env: []string{"GIT_DIR=" + dir, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"}}}
}

func (o own) index() string { return filepath.Join(o.dir, "index") }
