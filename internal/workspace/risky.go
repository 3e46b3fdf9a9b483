package workspace

import (
	"path"
	"strings"
)

// runsBy lists what runs by itself, or tells another program what to run, once
// it is in a work tree: patterns of path.Match for a whole path, for a name in
// any directory, or, with a slash at the end, for all below a directory.
var runsBy = []struct{ pattern, what string }{
	{".github/workflows/", "CI"}, {".github/actions/", "CI"}, {".gitlab-ci.yml", "CI"}, {".gitlab/", "CI"}, {".circleci/", "CI"}, {".buildkite/", "CI"},
	{".woodpecker/", "CI"}, {".woodpecker.y*ml", "CI"}, {".forgejo/", "CI"}, {".gitea/", "CI"}, {".drone.yml", "CI"}, {".travis.yml", "CI"},
	{"Jenkinsfile", "CI"}, {"azure-pipelines.yml", "CI"}, {"bitbucket-pipelines.yml", "CI"}, {".cirrus.yml", "CI"}, {"appveyor.yml", "CI"}, {".builds/", "CI"}, {".build.yml", "CI"},
	{".husky/", "a git hook"}, {".githooks/", "a git hook"}, {"hooks/", "a git hook"}, {".pre-commit-config.yaml", "a git hook"},
	{"lefthook.y*ml", "a git hook"}, {".lefthook.y*ml", "a git hook"}, {".lefthook/", "a git hook"}, {".overcommit.yml", "a git hook"},
	{".gitattributes", "git's filters"}, {".gitmodules", "git's submodules"}, {".lfsconfig", "git's filters"},
	{".vscode/", "an editor's tasks"}, {".idea/", "an editor's tasks"}, {".zed/", "an editor's tasks"}, {".fleet/", "an editor's tasks"}, {"*.code-workspace", "an editor's tasks"},
	{".nvim.lua", "an editor's settings"}, {".nvimrc", "an editor's settings"}, {".exrc", "an editor's settings"}, {".vimrc", "an editor's settings"},
	{".dir-locals.el", "an editor's settings"}, {".dir-locals-2.el", "an editor's settings"}, {".sublime-project", "an editor's settings"},
	{".devcontainer/", "a development container"}, {".devcontainer.json", "a development container"}, {"devbox.json", "a development shell"},
	{".envrc", "a shell's environment"}, {".env", "a shell's environment"}, {"flake.nix", "a development shell"}, {"shell.nix", "a development shell"},
	{".mise.toml", "mise"}, {"mise.toml", "mise"}, {".mise/", "mise"}, {".config/mise/", "mise"}, {".tool-versions", "mise"},
	{".claude/", "a coding agent"}, {".mcp.json", "a coding agent"}, {".cursor/", "a coding agent"}, {".opencode/", "a coding agent"}, {"opencode.json", "a coding agent"}, {".pi/", "a coding agent"},
	{".npmrc", "a package manager"}, {".yarnrc", "a package manager"}, {".yarnrc.yml", "a package manager"}, {".pnpmfile.cjs", "a package manager"}, {".cargo/", "a package manager"},
	{"conftest.py", "a test runner"}, {"sitecustomize.py", "Python"}, {".bangerignore", "banger"},
}

// Risk is a changed file that something may run without being asked to.
type Risk struct {
	Path string `json:"path"`
	What string `json:"what"` // what takes it up
}

// risks picks out of changed names those that run by themselves.
func risks(names []string) []Risk {
	var found []Risk
	for _, name := range names {
		if what := riskOf(name); what != "" {
			found = append(found, Risk{Path: name, What: what})
		}
	}
	return found
}

func riskOf(name string) string {
	for _, r := range runsBy {
		if dir, ok := strings.CutSuffix(r.pattern, "/"); ok {
			if strings.Contains("/"+name, "/"+dir+"/") {
				return r.what
			}
			continue
		}
		if ok, err := path.Match(r.pattern, path.Base(name)); err == nil && ok {
			return r.what
		}
	}
	return ""
}
