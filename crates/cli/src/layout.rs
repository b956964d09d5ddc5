//! Text that fits a terminal, the same way in every command.

use std::io;

use terminal_size::{Width, terminal_size_of};

/// Columns to fill: the terminal's, within what reads well.
pub(crate) fn width() -> usize {
    let terminal = terminal_size_of(io::stdout()).map(|(Width(columns), _)| usize::from(columns));
    terminal.unwrap_or(80).clamp(60, 100)
}

/// Lines of at most `width` characters. A command in backquotes is never broken, so that it can be
/// copied; one that is too long gets a line of its own.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut quoted = false;
    let words = text.split(|c: char| {
        quoted ^= c == '`';
        c == ' ' && !quoted
    });
    let mut lines: Vec<String> = Vec::new();
    for word in words.filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_between_words_only() {
        let lines = wrap("one two three four", 9);
        assert_eq!(lines, ["one two", "three", "four"]);
    }

    #[test]
    fn a_command_stays_on_one_line() {
        let lines = wrap(
            "Grow the pool: `echo 16 > /proc/sys/vm/nr_hugepages` now",
            20,
        );
        let command = "`echo 16 > /proc/sys/vm/nr_hugepages`";
        assert_eq!(lines, ["Grow the pool:", command, "now"]);
    }

    #[test]
    fn nothing_to_say_takes_no_line() {
        assert!(wrap("", 20).is_empty());
    }
}
