package kernel

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/spelling"
)

// explain gives errors that a person can mend an *api.Error.
func explain(err error) error {
	var told *api.Error
	if errors.As(err, &told) || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return fmt.Errorf("%w (%v)", &api.Error{
		Kind:    api.KindNoSpace,
		Message: "no space is left for the kernel",
		Hint:    "free about 500 MiB, or delete VMs that are not needed: banger vm prune",
	}, err)
}

func notFound(name string, known []string) error {
	hint := "the kernels there are: " + strings.Join(known, ", ")
	if near := spelling.Nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean %s? %s", near, hint)
	}
	return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("there is no kernel named %q", name), Hint: hint}
}
