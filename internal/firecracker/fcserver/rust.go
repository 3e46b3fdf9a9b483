package fcserver

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unicode"
)

// rustError says an operating system's error as Firecracker does: in the
// words of musl's strerror, with the number.
func rustError(err error) string {
	if errors.Is(err, errNUL) {
		return errNUL.Error()
	}
	var number syscall.Errno
	if !errors.As(err, &number) {
		return err.Error()
	}
	text, ok := muslTexts[number]
	if !ok {
		text = capitalize(number.Error())
	}
	return fmt.Sprintf("%s (os error %d)", text, int(number))
}

func capitalize(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// muslTexts are those that differ from Go's, but for the first letter.
var muslTexts = map[syscall.Errno]string{
	syscall.EADDRINUSE: "Address in use",
	syscall.EBUSY:      "Resource busy",
	syscall.EROFS:      "Read-only file system",
	syscall.ETXTBSY:    "Text file busy",
	syscall.ENXIO:      "No such device or address",
}

var errNUL = errors.New("file name contained an unexpected NUL byte")

// checkPath refuses what no system call can name.
func checkPath(path string) error {
	if strings.ContainsRune(path, 0) {
		return errNUL
	}
	return nil
}

func isAlphanumeric(c rune) bool { return unicode.IsLetter(c) || unicode.IsNumber(c) }
