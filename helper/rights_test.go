//go:build !vm

// The test machine has no sources.

package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the generated tables of the manual")

// TestOnePlaceForEachRight lists the system calls that run with a capability, for the manual: what privilege.With stands
// around is system calls and nothing else, so that the list is complete.
func TestOnePlaceForEachRight(t *testing.T) {
	table := "| Capability | System calls | Raised and dropped in |\n|---|---|---|\n" + strings.Join(rights(t), "")
	const path, begin, end = "../docs/helper.md", "<!-- rights -->\n", "<!-- /rights -->"
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(b), begin)
	require.True(t, found, "%s has no %q", path, begin)
	now, after, found := strings.Cut(rest, end)
	require.True(t, found)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(before+begin+table+end+after), 0o644))
		return
	}
	require.Equal(t, table, now, "a right has changed: look at it, then go test ./helper -run %s -update", t.Name())
}

func rights(t *testing.T) (rows []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		require.NoError(t, err)
		own := filepath.Dir(path) == "internal/privilege"
		for _, decl := range file.Decls {
			name := path
			if f, ok := decl.(*ast.FuncDecl); ok {
				name = f.Name.Name
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				require.True(t, own || !slices.Contains([]string{"unix.Capset", "syscall.AllThreadsSyscall"}, source(call.Fun)), "%s changes capabilities", path)
				if source(call.Fun) != "privilege.With" {
					return true
				}
				literal, ok := call.Args[1].(*ast.FuncLit)
				require.True(t, ok, "%s: privilege.With has to stand around a function literal", set.Position(call.Pos()))
				rows = append(rows, fmt.Sprintf("| `%s` | %s | %s, [%s](../helper/%s), lines %d and %d |\n",
					capability(t, call.Args[0]), strings.Join(systemCalls(t, set, literal), ", "), name, filepath.Base(path), path,
					set.Position(call.Pos()).Line, set.Position(call.End()).Line))
				return true
			})
		}
		return nil
	}))
	require.NotEmpty(t, rows)
	slices.Sort(rows)
	return rows
}

func capability(t *testing.T, e ast.Expr) string {
	t.Helper()
	name, ok := map[string]string{"privilege.NetAdmin": "CAP_NET_ADMIN", "privilege.SysAdmin": "CAP_SYS_ADMIN"}[source(e)]
	require.True(t, ok, "%s is no capability", source(e))
	return name
}

// systemCalls are those of a function that calls nothing else.
func systemCalls(t *testing.T, set *token.FileSet, f *ast.FuncLit) (calls []string) {
	t.Helper()
	ast.Inspect(f.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch name := source(call.Fun); {
		case name == "uintptr" || name == "unsafe.Pointer":
		case name == "unix.Syscall":
			calls = append(calls, "`"+strings.ToLower(strings.TrimPrefix(source(call.Args[0]), "unix.SYS_"))+"("+strings.TrimPrefix(source(call.Args[2]), "unix.")+")`")
		case strings.HasPrefix(name, "unix."):
			calls = append(calls, "`"+strings.ToLower(strings.TrimPrefix(name, "unix."))+"`")
		default:
			require.Fail(t, "not a system call with a capability raised", "%s: %s", set.Position(call.Pos()), name)
		}
		return true
	})
	return calls
}

// source is an expression such as a.b, as it is written.
func source(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return source(e.X) + "." + e.Sel.Name
	}
	return ""
}
