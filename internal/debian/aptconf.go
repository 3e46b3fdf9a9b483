package debian

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// aptProxies holds the proxy settings of apt.conf(5), by lower-case name, e.g.
// "acquire::http::proxy" or "acquire::http::proxy::mirror.example".
type aptProxies map[string]string

// readAptProxies reads apt.conf.d and apt.conf of an apt directory; later
// files override earlier ones.
func readAptProxies(dir string) aptProxies {
	files, _ := filepath.Glob(filepath.Join(dir, "apt.conf.d", "*"))
	proxies := aptProxies{}
	for _, file := range append(files, filepath.Join(dir, "apt.conf")) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		parseAptConf(string(text), func(name, value string) {
			if name = strings.ToLower(name); strings.Contains(name, "::proxy") && strings.HasPrefix(name, "acquire::") {
				proxies[name] = value
			}
		})
	}
	return proxies
}

// of gives apt's proxy for an archive; nil and true mean "directly".
func (p aptProxies) of(archive *url.URL) (*url.URL, bool) {
	base := "acquire::" + archive.Scheme + "::proxy"
	value, ok := p[base+"::"+strings.ToLower(archive.Hostname())]
	if !ok {
		value, ok = p[base]
	}
	if !ok && archive.Scheme == "https" { // apt falls back to the one of http
		value, ok = p["acquire::http::proxy"]
	}
	if !ok || value == "" || value == "false" {
		return nil, false
	}
	if value == "DIRECT" {
		return nil, true
	}
	proxy, err := url.Parse(value)
	if err != nil || proxy.Host == "" {
		return nil, false
	}
	return proxy, true
}

// parseAptConf calls set for each value. Both ways of writing are known:
//
//	Acquire::http::Proxy "http://proxy:3128";
//	Acquire { http { Proxy "http://proxy:3128"; }; };
func parseAptConf(text string, set func(name, value string)) {
	var scope []string // open braces
	var words []string // of the statement so far
	end := func() {
		if len(words) >= 2 {
			set(strings.Join(append(scope[:len(scope):len(scope)], words[0]), "::"), words[1])
		}
		words = nil
	}
	for text != "" {
		var token string
		token, text = aptToken(text)
		switch token {
		case "":
		case ";":
			end()
		case "{":
			name := ""
			if len(words) > 0 {
				name = words[0]
			}
			scope, words = append(scope, name), nil
		case "}":
			end()
			if len(scope) > 0 {
				scope = scope[:len(scope)-1]
			}
		default:
			words = append(words, strings.Trim(token, `"`))
		}
	}
}

// aptToken splits off the first token: a word, a quoted string, a brace or a
// semicolon; "" for blanks and comments.
func aptToken(text string) (token, rest string) {
	switch {
	case strings.HasPrefix(text, "//"), text[0] == '#':
		_, rest, _ = strings.Cut(text, "\n")
		return "", rest
	case strings.HasPrefix(text, "/*"):
		_, rest, _ = strings.Cut(text, "*/")
		return "", rest
	case strings.ContainsRune(" \t\r\n", rune(text[0])):
		return "", text[1:]
	case strings.ContainsRune("{};", rune(text[0])):
		return text[:1], text[1:]
	case text[0] == '"':
		if i := strings.IndexByte(text[1:], '"'); i >= 0 {
			return text[:i+2], text[i+2:]
		}
		return text, ""
	}
	if i := strings.IndexAny(text, " \t\r\n{};\""); i > 0 {
		return text[:i], text[i:]
	}
	return text, ""
}
