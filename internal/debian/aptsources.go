package debian

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// aptEntry is one archive that the host's apt uses.
type aptEntry struct {
	uri    string
	suites []string
}

// hostApt is what the host's apt says of archives and proxies.
type hostApt struct {
	entries []aptEntry
	proxies aptProxies
}

// hostSources reads sources.list, sources.list.d and the proxies of an apt
// directory such as /etc/apt. What cannot be read is as if it were not there:
// the host need not be a Debian.
func hostSources(dir string) hostApt {
	host := hostApt{proxies: readAptProxies(dir)}
	files := []string{filepath.Join(dir, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", pattern))
		files = append(files, more...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if strings.HasSuffix(file, ".sources") {
			host.entries = append(host.entries, parseSourcesDeb822(string(text))...)
		} else {
			host.entries = append(host.entries, parseSourcesList(string(text))...)
		}
	}
	return host
}

// parseSourcesList reads the one-line style of sources.list(5):
//
//	deb [ option=value … ] uri suite component…
func parseSourcesList(text string) []aptEntry {
	var entries []aptEntry
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		kind, rest, ok := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		if !ok || kind != "deb" {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		words := strings.Fields(rest)
		if len(words) >= 2 && isHTTP(words[0]) {
			entries = append(entries, aptEntry{uri: words[0], suites: words[1:2]})
		}
	}
	return entries
}

// parseSourcesDeb822 reads the deb822 style. A file that is not of that style
// gives what came before the fault.
func parseSourcesDeb822(text string) []aptEntry {
	var entries []aptEntry
	_ = parseControl(text, func(s stanza) error {
		if !slices.Contains(strings.Fields(s.get("Types")), "deb") || isNo(s.get("Enabled")) {
			return nil
		}
		for _, uri := range strings.Fields(s.get("URIs")) {
			if isHTTP(uri) {
				entries = append(entries, aptEntry{uri: uri, suites: strings.Fields(s.get("Suites"))})
			}
		}
		return nil
	})
	return entries
}

// isNo knows apt's words for false.
func isNo(value string) bool {
	return slices.Contains([]string{"no", "false", "without", "off", "disable", "0"}, strings.ToLower(value))
}

func isHTTP(uri string) bool {
	u, err := url.Parse(uri)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// candidates gives each archive once, those first that name one of the suites.
func (h hostApt) candidates(suites []string) []candidate {
	var named, others []candidate
	seen := map[string]bool{}
	for _, pass := range []bool{true, false} {
		for _, e := range h.entries {
			uri := strings.TrimSuffix(e.uri, "/")
			if seen[uri] || pass != namesAny(e.suites, suites) {
				continue
			}
			seen[uri] = true
			if pass {
				named = append(named, candidate{base: uri, named: true})
			} else {
				others = append(others, candidate{base: uri})
			}
		}
	}
	return append(named, others...)
}

func namesAny(have, wanted []string) bool {
	return slices.ContainsFunc(have, func(s string) bool { return slices.Contains(wanted, s) })
}

// applyProxy makes the fetcher reach base as the host's apt would, when base
// is one of apt's archives and apt has a proxy for it.
func (h hostApt) applyProxy(f *fetcher, base string) {
	if !slices.ContainsFunc(h.entries, func(e aptEntry) bool { return strings.TrimSuffix(e.uri, "/") == base }) {
		return
	}
	u, err := url.Parse(base)
	if err != nil {
		return
	}
	if proxy, ok := h.proxies.of(u); ok {
		f.useAptProxy(u.Host, proxy)
	}
}
