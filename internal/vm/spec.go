package vm

import (
	"fmt"
	"math/rand/v2"
	"regexp"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image"
)

// The limits of a VM. Firecracker runs at most 32 vCPUs; below the smallest
// memory a distribution's kernel does not reach its first process; the largest
// disk is what an image's filesystem can grow to.
const (
	maxVCPUs     = 32
	minMemoryMiB = 128
	maxMemoryMiB = 1 << 20
	minDiskMiB   = 512
	maxDiskMiB   = 8 << 20
)

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// resolve fills a request's gaps and refuses what can't be. It changes nothing.
func resolve(req api.CreateRequest, d Defaults) (string, Spec, error) {
	spec := Spec{
		Image:     or(req.Image, d.Image),
		Kernel:    req.Kernel,
		VCPUs:     or(req.VCPUs, d.VCPUs),
		MemoryMiB: or(req.MemoryMiB, d.MemoryMiB),
		DiskMiB:   or(req.DiskMiB, d.DiskMiB),
		Wait:      req.Wait,

		NoCredentials: req.NoCredentials,
		NoOpenSSH:     req.NoOpenSSH,
	}
	if req.Name != "" && !nameForm.MatchString(req.Name) {
		return "", Spec{}, bad(
			fmt.Sprintf("cannot name a VM %q: a name is its host name", req.Name),
			"use up to 63 of a-z, 0-9 and -, not - at the ends")
	}
	switch {
	case spec.VCPUs < 1 || spec.VCPUs > maxVCPUs:
		return "", Spec{}, bad(fmt.Sprintf("cannot give a VM %d vCPUs", spec.VCPUs), fmt.Sprintf("use 1 to %d", maxVCPUs))
	case spec.MemoryMiB < minMemoryMiB || spec.MemoryMiB > maxMemoryMiB:
		return "", Spec{}, bad(fmt.Sprintf("cannot give a VM %d MiB of memory", spec.MemoryMiB), fmt.Sprintf("use --memory %dM to %dG", minMemoryMiB, maxMemoryMiB>>10))
	case spec.DiskMiB < minDiskMiB || spec.DiskMiB > maxDiskMiB:
		return "", Spec{}, bad(fmt.Sprintf("cannot give a VM a disk of %d MiB", spec.DiskMiB), fmt.Sprintf("use --disk %dM to %dG", minDiskMiB, maxDiskMiB>>10))
	case spec.Wait != api.WaitDefault && spec.Wait != api.WaitAgent && spec.Wait != api.WaitSystem:
		return "", Spec{}, bad(fmt.Sprintf("cannot wait for %q", spec.Wait), "use --wait agent or --wait system")
	}
	return req.Name, spec, nil
}

// largestDiskMiB gives the largest disk over an image. A filesystem that does
// not grow has one too: where no disk is as small as it is, the guest leaves the
// rest alone.
func largestDiskMiB(base image.Image) int64 {
	return max(base.MaxDisk>>20, (base.Size+1<<20-1)>>20, minDiskMiB)
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

func bad(message, hint string) error {
	return &api.Error{Kind: api.KindBadRequest, Message: message, Hint: hint}
}

// The words that made-up names are put together from: short, easily typed and
// easily told apart by ear.
var (
	adjectives = []string{"amber", "brave", "calm", "clever", "cosy", "crisp", "eager", "fuzzy", "gentle", "jolly", "keen", "lively", "lucky", "mellow", "neat", "nimble", "proud", "quick", "quiet", "sunny", "swift", "tidy", "vivid", "warm", "witty", "zesty"}
	nouns      = []string{"badger", "bear", "cedar", "comet", "crane", "falcon", "finch", "fox", "heron", "ibex", "koala", "lark", "lynx", "maple", "marmot", "moose", "otter", "owl", "panda", "pine", "raven", "robin", "seal", "swan", "tiger", "wren"}
)

// madeUpName gives a name that is not taken.
func madeUpName(taken func(string) bool) string {
	pick := func(words []string) string { return words[rand.IntN(len(words))] }
	for range 20 {
		if name := pick(adjectives) + "-" + pick(nouns); !taken(name) {
			return name
		}
	}
	return pick(adjectives) + "-" + pick(nouns) + "-" + newID()
}
