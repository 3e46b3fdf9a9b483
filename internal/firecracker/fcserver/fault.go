package fcserver

import (
	"errors"
	"fmt"
	"net/http"
)

// Texts of the API that more than one request can get.
var (
	errPostBoot = errors.New("The requested operation is not supported after starting the microVM.")       //nolint:staticcheck // upstream's text
	errPreBoot  = errors.New("The requested operation is not supported before starting the microVM.")      //nolint:staticcheck // upstream's text
	errEmptyID  = errors.New("The ID cannot be empty.")                                                    //nolint:staticcheck // upstream's text
	errBadID    = errors.New("API Resource IDs can only contain alphanumeric characters and underscores.") //nolint:staticcheck // upstream's text
	errNoDevice = errors.New("Device manager error: Failed to find the device on the bus.")                //nolint:staticcheck // upstream's text
)

// prefixed puts one of upstream's contexts before an error. What a machine
// does not support has its own context.
func prefixed(context string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Unsupported](err); ok {
		return fmt.Errorf("The requested operation is not supported: %w", err) //nolint:staticcheck // upstream's text
	}
	return fmt.Errorf("%s: %w", context, err)
}

// errMMDSLimit is the only error with a status of its own.
var errMMDSLimit = errors.New("MMDS limit exceeded error: The MMDS patch request doesn't fit.") //nolint:staticcheck // upstream's text

func statusOf(err error) int {
	if errors.Is(err, errMMDSLimit) {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest
}
