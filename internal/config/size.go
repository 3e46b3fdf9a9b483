package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// units are powers of 1024, whatever they are called: "2G", "2GB" and "2GiB"
// are the same, as people mean them for memory and disks.
var units = map[string]float64{
	"": 1 << 20, "b": 1,
	"k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10,
	"m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20,
	"g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30,
	"t": 1 << 40, "tb": 1 << 40, "tib": 1 << 40,
}

// ParseMiB understands "2G", "512M", "20GiB", "1.5g" and a bare number of MiB.
// What is not a whole number of MiB is rounded up.
func ParseMiB(s string) (int64, error) {
	trimmed := strings.TrimSpace(s)
	end := strings.IndexFunc(trimmed, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		end = len(trimmed)
	}
	n, err := strconv.ParseFloat(trimmed[:end], 64)
	unit, known := units[strings.ToLower(strings.TrimSpace(trimmed[end:]))]
	if err != nil || !known {
		return 0, fmt.Errorf("%q is not a size: write it like 512M, 2G or 20GiB", s)
	}
	mib := math.Ceil(n * unit / (1 << 20))
	if mib > 1<<30 {
		return 0, fmt.Errorf("%q is too large: the most is 1024T", s)
	}
	return int64(mib), nil
}

// ParseBytes understands "64K", "1.5M" and a bare number of bytes.
func ParseBytes(s string) (int64, error) {
	if n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 50); err == nil {
		return int64(n), nil
	}
	trimmed := strings.TrimSpace(s)
	end := strings.IndexFunc(trimmed, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	n, err := strconv.ParseFloat(trimmed[:max(end, 0)], 64)
	unit, known := units[strings.ToLower(strings.TrimSpace(trimmed[max(end, 0):]))]
	if err != nil || !known || n*unit > 1<<50 {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return int64(n * unit), nil
}

// FormatMiB writes a size the way ParseMiB reads it, without losing any of it.
func FormatMiB(mib int64) string {
	if mib != 0 && mib%1024 == 0 {
		return fmt.Sprintf("%dGiB", mib/1024)
	}
	return fmt.Sprintf("%dMiB", mib)
}
