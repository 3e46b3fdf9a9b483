package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/config"
)

// WriteReference writes every command and its flags as Markdown. The file in
// docs/reference is made from it, and a test holds the two together.
func WriteReference(w io.Writer) error {
	text := &strings.Builder{}
	root := newRootCommand(&deps{})
	fmt.Fprintf(text, "# The banger command\n\nMade from the program itself by `make docs`.\n\n%s", indent(root.Long))
	writeCommands(text, root)
	_, err := io.WriteString(w, text.String())
	return err
}

func writeCommands(text *strings.Builder, c *cobra.Command) {
	for _, child := range c.Commands() {
		if !child.IsAvailableCommand() {
			continue
		}
		if child.Runnable() && !child.HasAvailableSubCommands() {
			writeCommand(text, child)
		}
		writeCommands(text, child)
	}
}

func writeCommand(text *strings.Builder, c *cobra.Command) {
	fmt.Fprintf(text, "\n## %s\n\n", c.CommandPath())
	if c.Parent().Name() == "completion" {
		fmt.Fprintf(text, "%s.\n", c.Short)
		return
	}
	about := c.Short + "."
	if c.Long != "" {
		about = c.Long
	}
	fmt.Fprintf(text, "%s\n\n    %s\n", about, c.UseLine())
	if len(c.Aliases) > 0 {
		fmt.Fprintf(text, "\nAlso: %s.\n", strings.Join(c.Aliases, ", "))
	}
	if c.HasExample() {
		fmt.Fprintf(text, "\nFor example:\n\n%s", indent(strings.ReplaceAll(c.Example, "\n  ", "\n")))
	}
	c.InitDefaultHelpFlag()
	c.Flags().Lookup("help").Hidden = true
	if flags := c.LocalFlags().FlagUsages(); flags != "" {
		fmt.Fprintf(text, "\nFlags:\n\n%s", indent(flags))
	}
}

// indent makes a block of code.
func indent(s string) string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight("    "+strings.TrimPrefix(line, "  "), " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// WriteConfigReference writes every setting as Markdown, like WriteReference.
func WriteConfigReference(w io.Writer) error {
	settings, err := config.Load(config.Options{Getenv: func(name string) string {
		return map[string]string{"HOME": "/home/you"}[name]
	}, UID: 1000, File: os.DevNull})
	if err != nil {
		return err
	}
	text := &strings.Builder{}
	text.WriteString(configHead)
	for _, v := range settings.Values() {
		value := v.Value
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(text, "| `%s` | %s | %s |\n", v.Key, value, v.About)
	}
	_, err = io.WriteString(w, text.String())
	return err
}

const configHead = `# The settings

Made from the program itself by ` + "`make docs`" + `.

All are optional. They come from ` + "`~/.config/banger/config.toml`" + ` (or the file that
` + "`BANGER_CONFIG`" + ` names), a line ` + "`setting = value`" + ` each; stronger is an environment
variable, ` + "`BANGER_`" + ` and the setting's name in capitals, and strongest a flag
(` + "`banger daemon restart --set setting=value`" + `). ` + "`banger config show`" + ` tells where each value
came from. bangerd reads them when it starts. Sizes are written like ` + "`512M`, `2G` or `20GiB`" + `,
always in powers of 1024.

| setting | default | what it is |
|---|---|---|
`
