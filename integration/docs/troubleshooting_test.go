package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// verbs are where a text is another one each time.
var verbs = regexp.MustCompile(`%(\[\d+\])?[-+# 0]*\d*[a-zA-Z]`)

// source is what the programs' code has to say.
type source struct {
	literals []string            // without what verbs put in
	errors   map[string][]string // the texts of package-level errors by folder
}

func readSource(t *testing.T, root string) source {
	t.Helper()
	s := source{errors: map[string][]string{}}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "integration" || d.Name() == "vdptest") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, err := strconv.Unquote(lit.Value)
				require.NoError(t, err)
				s.literals = append(s.literals, verbs.ReplaceAllString(text, "\x00"))
			}
			return true
		})
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				v := spec.(*ast.ValueSpec)
				if !strings.HasPrefix(strings.ToLower(v.Names[0].Name), "err") || len(v.Values) != 1 {
					continue
				}
				if call, ok := v.Values[0].(*ast.CallExpr); ok && len(call.Args) > 0 {
					if lit, ok := call.Args[0].(*ast.BasicLit); ok {
						text, err := strconv.Unquote(lit.Value)
						require.NoError(t, err)
						s.errors[dir] = append(s.errors[dir], verbs.ReplaceAllString(text, "\x00"))
					}
				}
			}
		}
		return nil
	}))
	return s
}

// entries are the lines that the page has, each as the pieces between "…".
func entries(t *testing.T) (all [][]string) {
	t.Helper()
	page, err := os.ReadFile(folder + "/troubleshooting.md")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile("(?m)^\\| (`.*?`) \\| .* \\|$").FindAllStringSubmatch(string(page), -1) {
		for _, line := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(m[1], -1) {
			var pieces []string
			for piece := range strings.SplitSeq(line[1], "…") {
				if piece = strings.TrimSpace(piece); len(piece) > 3 {
					pieces = append(pieces, piece)
				}
			}
			require.NotEmpty(t, pieces, line[1])
			all = append(all, pieces)
		}
	}
	require.NotEmpty(t, all)
	return all
}

// parts splits a line where an error is wrapped: into the kind of the error, and what
// to do about it.
func (s source) parts(piece string) []string {
	for _, kinds := range s.errors {
		for _, k := range kinds {
			for _, between := range []string{": ", "; "} {
				if rest, ok := strings.CutPrefix(piece, k+between); ok {
					return []string{k, rest}
				}
			}
		}
	}
	return []string{piece}
}

// What the page has is still printed somewhere.
func TestTroubleshootingIsPrinted(t *testing.T) {
	s := readSource(t, "../..")
	for _, entry := range entries(t) {
		for _, piece := range entry {
			for _, part := range s.parts(piece) {
				part = strings.Trim(part, ":; ")
				if !slices.ContainsFunc(s.literals, func(l string) bool { return strings.Contains(l, part) }) {
					t.Errorf("docs/troubleshooting.md has %q: nothing prints it any more", part)
				}
			}
		}
	}
}

// unseen are errors that nobody is shown, or that say all in the lines around them.
var unseen = []string{
	"truncated", "wrong length", "TLV missing, repeated or out of order", "value out of range", "not supported", // formats of frames, in vdpd's debug log
	"frame is not for this station", "stray VDP message",
	"bad request", "malformed answer of vdpd", "malformed answer of lldpad", "events were lost", "closed", // between our own programs
	"no such range", "not the name of a resource", "not to be trusted", // the lines around them say it
	"left alone until it is free",
	"gave up waiting", // who waited says for what
}

// The errors that our programs tell apart, which stand in every line that a person is
// shown, are in the page.
func TestErrorsAreInTroubleshooting(t *testing.T) {
	s := readSource(t, "../..")
	all := entries(t)
	for dir, texts := range s.errors {
		if strings.HasPrefix(dir, "cmd") || strings.HasPrefix(dir, "packaging") || dir == "vdp/vdpnl" || dir == "hooks/hooktest" || dir == "hooks/domaintest" {
			continue
		}
		for _, text := range texts {
			text, _, _ = strings.Cut(text, "\x00") // "…: %w"
			if slices.Contains(unseen, text) || text == "" {
				continue
			}
			covered := slices.ContainsFunc(all, func(entry []string) bool {
				return slices.ContainsFunc(entry, func(piece string) bool {
					return strings.HasPrefix(piece, strings.Trim(text, ": ")) || strings.Contains(text, strings.Trim(piece, ":; "))
				})
			})
			if !covered {
				t.Errorf("%s: %q is not in docs/troubleshooting.md: say there why it comes and what to do", dir, text)
			}
		}
	}
}
