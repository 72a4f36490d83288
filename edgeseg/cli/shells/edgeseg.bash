_edgeseg_completion() {
    local IFS=$'\n'
    export COMP_LINE COMP_POINT BREAKS="$COMP_WORDBREAKS"
    COMPREPLY=($(_EDGESEG_COMPLETE=bash "$1" 2>/dev/null))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/,] ]] && compopt -o nospace
    return 0
}
complete -F _edgeseg_completion edgeseg
