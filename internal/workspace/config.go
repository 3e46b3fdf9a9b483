package workspace

import (
	"context"
	"net/url"
	"path"
	"slices"
	"strings"
)

// setting is one line of git's configuration: section.subsection.name.
type setting struct{ key, value string }

// readConfig reads what counts in a repository, the user's own settings too.
func readConfig(ctx context.Context, g git) ([]setting, error) {
	out, err := g.run(ctx, "config", "--list", "-z", "--includes")
	if err != nil {
		return nil, err
	}
	var all []setting
	for _, line := range fields(out) {
		key, value, ok := strings.Cut(line, "\n")
		if !ok {
			value = "true"
		}
		all = append(all, setting{key, value})
	}
	return all, nil
}

// value is the last of a key that may stand more than once.
func value(all []setting, key string) string {
	for _, s := range slices.Backward(all) {
		if s.key == key {
			return s.value
		}
	}
	return ""
}

// travels lists what of the configuration goes along, as patterns of the key
// without its subsection. All else stays on the host: credentials, helpers,
// headers, hooks, aliases, filters and whatever else runs or is secret. A key
// that is not known is not safe.
var travels = []string{
	"user.name", "user.email",
	"core.autocrlf", "core.eol", "core.safecrlf", "core.filemode", "core.quotepath", "core.abbrev", "core.whitespace",
	"core.sparsecheckout", "core.sparsecheckoutcone",
	"extensions.objectformat", "extensions.partialclone",
	"remote.url", "remote.pushurl", "remote.fetch", "remote.push", "remote.tagopt", "remote.prune", "remote.promisor", "remote.partialclonefilter",
	"branch.remote", "branch.pushremote", "branch.merge", "branch.rebase", "branch.description",
	"submodule.url", "submodule.active", "submodule.branch", "submodule.ignore",
	"status.*", "log.date", "log.decorate", "log.showsignature", "log.follow",
	"diff.renames", "diff.renamelimit", "diff.context", "diff.algorithm", "diff.noprefix", "diff.mnemonicprefix", "diff.submodule",
	"diff.ignoresubmodules", "diff.colormoved", "diff.indentheuristic", "diff.statgraphwidth", "diff.wserrorhighlight",
	"merge.conflictstyle", "merge.ff", "pull.rebase", "pull.ff", "push.default", "push.autosetupremote", "rebase.autosquash", "rebase.autostash",
	"init.defaultbranch", "i18n.commitencoding", "i18n.logoutputencoding", "color.*", "column.*", "advice.*",
}

// addresses are the keys whose values may be addresses of other machines.
var addresses = []string{"remote.url", "remote.pushurl", "branch.remote", "branch.pushremote", "submodule.url"}

// guestConfig is the text of the guest's .git/config.
func guestConfig(all []setting, format string) string {
	version := "0"
	if format != "sha1" || value(all, "extensions.partialclone") != "" {
		version = "1"
	}
	var text configText
	for _, s := range []setting{
		{"core.repositoryformatversion", version},
		{"core.bare", "false"},
		{"core.logallrefupdates", "true"},
		// The files are the same, but have other inodes.
		{"core.checkstat", "minimal"},
		{"core.trustctime", "false"},
	} {
		text.add(s)
	}
	for _, s := range all {
		general := generalKey(s.key)
		if !slices.ContainsFunc(travels, func(pattern string) bool {
			ok, err := path.Match(pattern, general)
			return err == nil && ok
		}) {
			continue
		}
		if slices.Contains(addresses, general) {
			s.value = withoutCredentials(s.value)
		}
		text.add(s)
	}
	return text.String()
}

// generalKey leaves the subsection out of a key.
func generalKey(key string) string {
	first, last := strings.IndexByte(key, '.'), strings.LastIndexByte(key, '.')
	if first < 0 {
		return key
	}
	return key[:first] + key[last:]
}

// withoutCredentials takes user and password out of an address. The user "git"
// of ssh stays: it is everybody's.
func withoutCredentials(address string) string {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		return withoutUser(address)
	}
	authority, file, slash := strings.Cut(rest, "/")
	user := ""
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, authority = authority[:i], authority[i+1:]
	}
	if user == "git" && strings.Contains(scheme, "ssh") {
		authority = "git@" + authority
	}
	clean := scheme + "://" + authority
	if slash {
		clean += "/" + file
	}
	// A token may be a parameter, too.
	if u, err := url.Parse(clean); err == nil && u.RawQuery != "" && strings.HasPrefix(scheme, "http") {
		u.RawQuery = ""
		clean = u.String()
	}
	return clean
}

// withoutUser is for ssh's short form, user@host:path; a path has its slash
// before any colon.
func withoutUser(address string) string {
	host, _, ok := strings.Cut(address, ":")
	user, _, named := strings.Cut(host, "@")
	if !ok || !named || strings.Contains(host, "/") || user == "git" {
		return address
	}
	return address[len(user)+1:]
}

// configText builds git's format of configuration: git-config(1), "Syntax".
type configText struct {
	strings.Builder
	section string
}

func (t *configText) add(s setting) {
	first, last := strings.IndexByte(s.key, '.'), strings.LastIndexByte(s.key, '.')
	section := s.key[:first]
	if first != last {
		section += ` "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s.key[first+1:last]) + `"`
	}
	if section != t.section {
		t.section = section
		t.WriteString("[" + section + "]\n")
	}
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\b", `\b`).Replace(s.value)
	t.WriteString("\t" + s.key[last+1:] + ` = "` + escaped + "\"\n")
}
