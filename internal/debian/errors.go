package debian

import (
	"errors"
	"fmt"

	"github.com/banger-vm/banger/api"
)

// untrusted marks err as something signed or hashed that was wrong.
func untrusted(err error) error {
	return &kindError{api.Error{
		Kind:    api.KindUntrusted,
		Message: err.Error(),
		Hint:    "nothing of it was used; try another mirror (`mirror` in the configuration)",
	}, err}
}

// unreachable marks err as a mirror that does not answer.
func unreachable(err error) error {
	return &kindError{api.Error{
		Kind:    api.KindUnreachable,
		Message: err.Error(),
		Hint:    "check the network, http_proxy and https_proxy, or set `mirror` in the configuration",
	}, err}
}

// notInArchive says that no suite holds the package.
func notInArchive(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &kindError{api.Error{Kind: api.KindNotFound, Message: err.Error()}, err}
}

// kindError is an api.Error that keeps its cause inspectable.
type kindError struct {
	api   api.Error
	cause error
}

func (e *kindError) Error() string { return e.cause.Error() }

func (e *kindError) Unwrap() []error { return []error{&e.api, e.cause} }

// isUntrusted tells a refusal from a failure to fetch.
func isUntrusted(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Kind == api.KindUntrusted
}
