package doctor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/api"
)

// subordinate is a line of subuid(5): whose, the first id and how many.
type subordinate struct {
	user         string
	first, count int
}

func (s subordinate) String() string {
	return fmt.Sprintf("%d to %d of %s", s.first, s.first+s.count-1, s.user)
}

// subordinates looks at the ids that users may give to their containers. None
// of them may be one that a VMM runs under: a container could reach into it.
func subordinates(_ context.Context, o Options) []api.Finding {
	var missing []string
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		text, err := o.Host.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return one("subordinate ids", api.LevelWarning, err.Error(), "see that bangerd may read "+file)
		}
		all := parseSubordinates(text)
		if s := o.clash(all); s != nil {
			return one("subordinate ids", api.LevelWarning,
				fmt.Sprintf("%v in %s are also those that VMMs run under, %d and up: a container of %s could reach into a VMM", s, file, o.UIDBase, s.user),
				fmt.Sprintf("give %s another range, such as with `usermod --del-subuids` and `--add-subuids`, and the same for subgids", s.user))
		}
		if !has(all, o.Host.User, o.Host.UID) {
			missing = append(missing, file)
		}
	}
	if o.Host.User == "root" || o.Host.User == "" {
		return one("subordinate ids", api.LevelOK, "none are needed, for root uses banger", "")
	}
	if len(missing) > 0 {
		return one("subordinate ids", api.LevelInfo,
			fmt.Sprintf("%s has none in %s; banger without root, which is not there yet, will want them", o.Host.User, strings.Join(missing, " and ")), "")
	}
	return one("subordinate ids", api.LevelOK, o.Host.User+" has some", "")
}

// clash gives the line that has ids of VMMs in it.
func (o Options) clash(all []subordinate) *subordinate {
	addresses := 1 << (32 - o.Config.Bridge.Bits())
	for _, s := range all {
		if s.first < o.UIDBase+addresses && o.UIDBase < s.first+s.count {
			return &s
		}
	}
	return nil
}

func has(all []subordinate, user string, uid int) bool {
	for _, s := range all {
		if s.user == user || s.user == strconv.Itoa(uid) {
			return true
		}
	}
	return false
}

// parseSubordinates reads "user:first:count" lines and passes over others, as
// the programs that use them do.
func parseSubordinates(text []byte) []subordinate {
	var all []subordinate
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 {
			continue
		}
		first, firstErr := strconv.Atoi(fields[1])
		count, countErr := strconv.Atoi(fields[2])
		if firstErr == nil && countErr == nil && count > 0 {
			all = append(all, subordinate{fields[0], first, count})
		}
	}
	return all
}
