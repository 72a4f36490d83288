#compdef edgeseg
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
_edgeseg_completion() {
    local -a values shown open opened
    local value help
    export COMP_LINE="${(j: :)words[1,CURRENT-1]} $PREFIX"
    _EDGESEG_COMPLETE=zsh edgeseg 2>/dev/null | while IFS=$'\t' read -r value help; do
        case $value in
            *[=/,]) open+=("$value"); opened+=("$value${help:+  $help}") ;;
            *) values+=("$value"); shown+=("$value${help:+  $help}") ;;
        esac
    done
    (( $#values )) && compadd -Q -l -d shown -a values
    (( $#open )) && compadd -Q -S '' -l -d opened -a open
    (( $#values + $#open ))
}
compdef _edgeseg_completion edgeseg
