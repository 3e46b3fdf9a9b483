// Package spelling guesses which word somebody meant who wrote another.
package spelling

import "strings"

// Nearest gives the word that a slip of the keyboard makes name of, or "".
func Nearest(name string, words []string) string {
	best, bestAt := "", len(name)/3+2
	for _, w := range words {
		if d := distance(strings.ToLower(name), w); d < bestAt {
			best, bestAt = w, d
		}
	}
	return best
}

// distance is Levenshtein's: how many letters must be changed, added or left
// out.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
