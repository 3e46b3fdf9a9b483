package debian

import (
	"net/url"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSourcesList(t *testing.T) {
	text := `
# deb http://commented.test/debian bookworm main
deb http://a.test/debian bookworm main contrib # why
deb	http://tab.test/debian	bookworm	main
deb [ arch=amd64 signed-by=/usr/share/keyrings/x.gpg ] https://b.test/linux bookworm stable
deb-src http://a.test/debian bookworm main
deb cdrom:[Debian]/ bookworm main
deb file:/srv/debian bookworm main
deb http://flat.test/ ./
deb http://short.test
debug http://x.test y
`
	want := []aptEntry{
		{"http://a.test/debian", []string{"bookworm"}},
		{"http://tab.test/debian", []string{"bookworm"}},
		{"https://b.test/linux", []string{"bookworm"}},
		{"http://flat.test/", []string{"./"}},
	}
	if diff := cmp.Diff(want, parseSourcesList(text), cmp.AllowUnexported(aptEntry{})); diff != "" {
		t.Error(diff)
	}
}

func TestParseSourcesDeb822(t *testing.T) {
	text := `# A Debian host.
Types: deb deb-src
# a comment inside
URIs: http://a.test/debian
 http://b.test/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm

Types: deb-src
URIs: http://source.test/debian
Suites: bookworm

types: deb
uris: https://lower.test/debian
suites: trixie
`
	want := []aptEntry{
		{"http://a.test/debian", []string{"bookworm", "bookworm-updates"}},
		{"http://b.test/debian", []string{"bookworm", "bookworm-updates"}},
		{"https://lower.test/debian", []string{"trixie"}},
	}
	if diff := cmp.Diff(want, parseSourcesDeb822(text), cmp.AllowUnexported(aptEntry{})); diff != "" {
		t.Error(diff)
	}
}

func TestHostSources(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "sources.list"), "deb http://one.test/debian bookworm main\n")
	writeFile(t, filepath.Join(dir, "sources.list.d", "a.list"), "deb http://two.test/x y z\ndeb http://one.test/debian/ bookworm-updates main\n")
	writeFile(t, filepath.Join(dir, "sources.list.d", "b.sources"), "Types: deb\nURIs: http://three.test/debian\nSuites: bookworm-security\n")
	writeFile(t, filepath.Join(dir, "sources.list.d", "c.save"), "deb http://no.test/debian bookworm main\n")
	host := hostSources(dir)
	want := []candidate{
		{"http://three.test/debian", true},
		{"http://one.test/debian", false},
		{"http://two.test/x", false},
	}
	if diff := cmp.Diff(want, host.candidates([]string{"bookworm-security"}), cmp.AllowUnexported(candidate{})); diff != "" {
		t.Error(diff)
	}
	if got := hostSources(filepath.Join(dir, "absent")); len(got.entries) != 0 {
		t.Errorf("of nothing: %v", got.entries)
	}
}

func TestAptProxies(t *testing.T) {
	tests := map[string]struct {
		conf    string
		archive string
		want    string // "" none set, "direct"
	}{
		"short":         {`Acquire::http::Proxy "http://p.test:3128/";`, "http://m.test/debian", "http://p.test:3128/"},
		"nested":        {"Acquire {\n http { // why\n Proxy \"http://p.test:3128\"; }; };", "http://m.test/d", "http://p.test:3128"},
		"mixed case":    {`ACQUIRE::HTTP::proxy "http://p.test:1";`, "http://m.test/d", "http://p.test:1"},
		"one host":      {`Acquire::http::Proxy "http://p.test:1"; Acquire::http::Proxy::m.test "DIRECT";`, "http://m.test/d", "direct"},
		"other host":    {`Acquire::http::Proxy::x.test "http://p.test:1";`, "http://m.test/d", ""},
		"https":         {`Acquire::https::Proxy "http://s.test:1"; Acquire::http::Proxy "http://p.test:1";`, "https://m.test/d", "http://s.test:1"},
		"https by http": {`Acquire::http::Proxy "http://p.test:1";`, "https://m.test/d", "http://p.test:1"},
		"off":           {`Acquire::http::Proxy "false";`, "http://m.test/d", ""},
		"commented":     {"# Acquire::http::Proxy \"http://p.test:1\";\n/* Acquire::http::Proxy \"http://p.test:1\"; */\n// x", "http://m.test/d", ""},
		"no URL":        {`Acquire::http::Proxy "p.test:1";`, "http://m.test/d", ""},
		"nothing":       {"", "http://m.test/d", ""},
		"a list":        {`Acquire::Languages { "en"; "de"; }; Acquire::http::Proxy "http://p.test:1";`, "http://m.test/d", "http://p.test:1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "apt.conf.d", "10x"), test.conf)
			archive, err := url.Parse(test.archive)
			if err != nil {
				t.Fatal(err)
			}
			proxy, ok := readAptProxies(dir).of(archive)
			got := ""
			switch {
			case ok && proxy == nil:
				got = "direct"
			case ok:
				got = proxy.String()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// FuzzApt holds that no text of the host's makes the parsers hang or panic.
func FuzzApt(f *testing.F) {
	f.Add("Acquire { http { Proxy \"http://p.test:3128\"; }; };")
	f.Add("deb [x] http://a.test/debian bookworm main\n")
	f.Add("Types: deb\nURIs: http://a.test\nSuites: x\n")
	f.Add("\"{}}};/*")
	f.Fuzz(func(_ *testing.T, text string) {
		parseAptConf(text, func(string, string) {})
		parseSourcesList(text)
		parseSourcesDeb822(text)
	})
}
